"""What each training depends on in effect: params.yaml with the mode resolved into configuration.

What a system does not use is not in its plan: modes none and post plan the same tokenizer, so that DVC trains it once.
"""

from typing import Any, Literal

from prologue.core.params import (
    AugmentParams,
    Params,
    Precision,
    Section,
    Stage1Params,
    TokenizerSize,
    TransformerParams,
)
from prologue.core.systems import tokenizer_size
from prologue.models.config import PrologueConfig


class JointARPlan(Section):
    """The AR model that is trained beside a tokenizer, and how its cross-entropy reaches the tokens.

    Attributes:
        transformer: its size.
        weight: lambda_AR.
        label_drop: share of images trained without their class.
        visual_dropout: share of images whose visual inputs are all replaced by EOS.
        routed_tau: Prob-STE temperature of the visual tokens, to which the gradient is routed; None: to the prologue.
    """

    transformer: TransformerParams
    weight: float
    label_drop: float
    visual_dropout: float
    routed_tau: float | None


class TrainingPlan(Section):
    """A training on images: of a whole tokenizer, or of a prologue for one that is frozen (`tokenizer` is None)."""

    seed: int
    precision: Precision
    image_size: int
    augment: AugmentParams
    tokenizer: TokenizerSize | None
    prologue: PrologueConfig | None
    prologue_start: Literal["random", "data"] = "random"
    joint_ar: JointARPlan | None
    stage1: Stage1Params


def plan_tokenizer(params: Params) -> TrainingPlan:
    """Stage 1 of every mode."""
    mode = params.prologue.mode
    learns_prologue = mode in ("joint", "onestage")
    return TrainingPlan(
        seed=params.seed,
        precision=params.precision,
        image_size=params.data.image_size,
        augment=params.augment,
        tokenizer=tokenizer_size(params.tokenizer),
        prologue=_prologue(params, encoder=None) if learns_prologue else None,
        prologue_start=params.prologue.start if learns_prologue else "random",
        joint_ar=_joint_ar(params) if learns_prologue or mode == "routed" else None,
        stage1=params.stage1,
    )


def plan_attach(params: Params) -> TrainingPlan | None:
    """Prologue-Post's training of a prologue for the frozen tokenizer (Sec. 2.3); None in the other modes."""
    if params.prologue.mode != "post":
        return None
    post = params.prologue.post
    return TrainingPlan(
        seed=params.seed,
        precision=params.precision,
        image_size=params.data.image_size,
        augment=params.augment,
        tokenizer=None,
        prologue=_prologue(params, encoder=TransformerParams(layers=post.layers, dim=post.dim)),
        prologue_start=params.prologue.start,
        joint_ar=_joint_ar(params),
        stage1=params.stage1.model_copy(update={"steps": post.steps}),
    )


def plan_ar(params: Params) -> dict[str, Any]:
    """Stage 2: nothing but the cached ids knows of the mode."""
    return params.model_dump(mode="json", include={"seed", "precision", "ar"})


def _prologue(params: Params, encoder: TransformerParams | None) -> PrologueConfig:
    own = params.prologue
    return PrologueConfig(tokens=own.tokens, codebook=own.codebook, tau=own.tau, encoder=encoder)


def _joint_ar(params: Params) -> JointARPlan:
    own, full_size = params.prologue, params.prologue.mode == "onestage"
    routed = own.mode == "routed"
    return JointARPlan(
        transformer=TransformerParams(layers=params.ar.layers, dim=params.ar.dim) if full_size else own.compact_ar,
        weight=own.ar_weight,
        label_drop=params.ar.label_drop if full_size else 1.0,
        visual_dropout=0.0 if routed else own.visual_dropout,  # without a prologue there is no EOS to stand in
        routed_tau=own.tau if routed else None,
    )
