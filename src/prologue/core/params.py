"""The params of params.yaml: one model per section, with what each key may be.

This module declares and checks, and computes nothing: the values of params enter what depends on them, this file does
not (core/code.py).
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, model_validator

from prologue.core.conventions import EPOCHS, HEAD_DIM

Count = Annotated[int, Field(ge=1)]
OptionalCount = Annotated[int | None, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
TransformerDim = Annotated[int, Field(ge=HEAD_DIM, multiple_of=HEAD_DIM)]
SSIM_WINDOW = 11  # px
Precision = Literal["auto", "bf16", "fp32"]
AnyPath = Annotated[Path, Strict(False)]  # YAML has strings alone
Source = Literal["train", "published", "folder"]
Pixels = Literal["signed", "unit"]
Codebook = Annotated[int, Field(ge=2, le=65536)]  # its ids are cached as uint16


def _check_duration(value: object) -> object:
    steps = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if steps or (isinstance(value, str) and EPOCHS.fullmatch(value)):
        return value
    raise ValueError("Input should be a number of steps, or of epochs as in 1.5epochs")


Duration = Annotated[int | str, BeforeValidator(_check_duration)]


class Section(BaseModel):
    """A section of params.yaml: frozen, unknown keys and values of another type refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DataParams(Section):
    source: AnyPath
    hash_content: bool
    classes: Annotated[int, Field(ge=1)] | list[str | int] | None
    image_size: Annotated[int, Field(ge=8)]
    train_limit: OptionalCount
    val_limit: OptionalCount
    val_fraction: Annotated[float, Field(gt=0, lt=1)]
    images_per_shard: Count
    max_pixels: Count
    max_rejected: Fraction


class AugmentParams(Section):
    max_scale: Annotated[float, Field(ge=1)]
    flip: bool
    decoder: Literal["exact", "fast"]


class TransformerParams(Section):
    """Size of one transformer; heads = dim / 64."""

    layers: Count
    dim: TransformerDim


class TokenizerSize(Section):
    """Everything that shapes a tokenizer without its prologue."""

    layout: Literal["2d", "1d"]
    tokens: OptionalCount = None  # models that were saved before it was a param have one token per patch
    patch: Count
    code_dim: Count
    codebook: Codebook
    commitment: NonNegative
    encoder: TransformerParams
    decoder: TransformerParams


class TokenizerParams(TokenizerSize):
    source: Source | Literal["vq_model", "llamagen", "taming", "maskgit_vq", "titok"]
    path: AnyPath
    pixels: Pixels


class PostParams(TransformerParams):
    """Prologue-Post's own encoder, and how long it is trained."""

    steps: Duration


class PrologueParams(Section):
    mode: Literal["joint", "post", "onestage", "none", "routed"]
    tokens: Count
    codebook: Codebook
    tau: Positive
    start: Literal["random", "data"]
    ar_weight: NonNegative
    visual_dropout: Fraction
    compact_ar: TransformerParams
    post: PostParams


class LoopParams(Section):
    """Steps and intervals that every training has."""

    steps: Duration
    batch: Count
    lr: Positive
    warmup: Duration
    log_every: Count
    validate_every: Count
    checkpoint_every: Count
    keep_checkpoints: Count


class ScheduleParams(LoopParams):
    """What both training stages share."""

    lr_end: NonNegative
    flat: Duration
    gate_lr_scale: Positive
    ema_half_life: Positive
    validation_grid: Annotated[int, Field(ge=0)]


class PerceptualParams(Section):
    """Weight of each perceptual network's loss."""

    lite0: NonNegative
    vgg16: NonNegative
    convnext_small: NonNegative


class DiscriminatorParams(Section):
    layers: Count
    width: Count


class Stage1Params(ScheduleParams):
    ar_weight_decay: NonNegative
    l1: NonNegative
    perceptual: PerceptualParams
    adversarial: NonNegative
    discriminator: DiscriminatorParams
    lecam: NonNegative
    r1: NonNegative
    r1_every: Count
    min_usage: Fraction


class TokensParams(Section):
    crops: Literal["center", "flip", "ten"]
    batch: Count


class ARParams(ScheduleParams):
    source: Source
    path: AnyPath
    layers: Count
    dim: TransformerDim
    weight_decay: NonNegative
    clip: Positive
    dropout: Annotated[float, Field(ge=0, lt=1)]
    embedding_dropout: Annotated[float, Field(ge=0, lt=1)]
    label_drop: Fraction


class ChoiceParams(Section):
    """How ids of a segment are chosen from logits."""

    temperature: Positive
    top_k: Annotated[int, Field(ge=0)]
    top_p: Annotated[float, Field(gt=0, le=1)]


class GuidedChoiceParams(ChoiceParams):
    """The same with guidance."""

    guidance: NonNegative
    schedule: Literal["constant", "linear", "cosine"]
    power: Positive


class GuidedRunParams(Section):
    prologue: GuidedChoiceParams
    visual: GuidedChoiceParams


class PlainRunParams(Section):
    prologue: ChoiceParams
    visual: ChoiceParams


class WatermarkParams(Section):
    strength: NonNegative


class SamplingParams(Section):
    images: Annotated[int, Field(ge=10)]  # the inception score has 10 splits
    classes: list[str | int] | None
    precision: Precision
    files: Literal["none", "png", "webp"]
    rows: Count
    watermark: WatermarkParams
    cfg: GuidedRunParams
    no_cfg: PlainRunParams


class SweepParams(Section):
    axis: Annotated[str, Field(pattern=r"^(prologue|visual)\.(guidance|power|temperature|top_k|top_p)$")]
    values: list[float]
    temperatures: list[Positive]
    images: Annotated[int, Field(ge=10)]  # the inception score has 10 splits
    adopt: bool


class EvaluationParams(Section):
    extractor: Literal["lite2", "inception"]
    perceptual: Literal["lite0", "vgg16"]
    batch: Count
    neighbours: Count


class MAEProbeParams(LoopParams):
    """The linear probe's training by MAE's protocol."""

    batch: Annotated[int, Field(ge=2)]  # its batch norm has no variance of one image


class ProbeParams(Section):
    feature: Literal["encoder", "code"]
    protocol: Literal["fast", "mae"]
    mae: MAEProbeParams


class Params(Section):
    """All of params.yaml."""

    seed: Annotated[int, Field(ge=0)]
    precision: Precision
    data: DataParams
    augment: AugmentParams
    tokenizer: TokenizerParams
    prologue: PrologueParams
    stage1: Stage1Params
    tokens: TokensParams
    ar: ARParams
    sampling: SamplingParams
    sweep: SweepParams
    evaluation: EvaluationParams
    probe: ProbeParams

    @model_validator(mode="after")
    def sections_fit_together(self) -> "Params":
        """The image is a whole number of patches, and models come from where they can."""
        if self.data.image_size % self.tokenizer.patch:
            raise ValueError(
                f"tokenizer.patch: {self.tokenizer.patch} does not divide data.image_size {self.data.image_size}"
            )
        if self.data.image_size < SSIM_WINDOW:
            raise ValueError(
                f"data.image_size: {self.data.image_size} is less than the {SSIM_WINDOW} px that SSIM needs"
            )
        if self.sampling.images <= self.evaluation.neighbours:
            raise ValueError(
                f"sampling.images: {self.sampling.images} must be more than evaluation.neighbours, "
                f"{self.evaluation.neighbours}"
            )
        losses = (self.stage1.l1, self.stage1.adversarial, *(weight for _, weight in self.stage1.perceptual))
        if self.tokenizer.source == "train" and not any(losses):
            raise ValueError("stage1: l1, perceptual or adversarial must be above 0, or nothing trains the decoder")
        layers = self.stage1.discriminator.layers
        if self.stage1.adversarial and self.tokenizer.source == "train" and self.data.image_size < 3 * 2**layers:
            raise ValueError(
                f"stage1.discriminator.layers: {layers} need images of {3 * 2**layers} px or more, and data.image_size "
                f"is {self.data.image_size}"
            )
        if self.tokenizer.tokens and self.tokenizer.layout == "2d":
            raise ValueError("tokenizer.tokens: layout 2d has one token per patch; leave it empty, or use layout 1d")
        if self.ar.source != "train" and self.tokenizer.source == "train":
            raise ValueError(
                f"ar.source: {self.ar.source} needs the tokenizer whose ids it reads, not one trained here"
            )
        if self.prologue.mode in ("onestage", "routed") and self.tokenizer.source != "train":
            raise ValueError(f"prologue.mode: {self.prologue.mode} trains its tokenizer: set tokenizer.source: train")
        if self.sweep.values and self.sweep.axis.startswith("prologue.") and self.prologue.mode in ("none", "routed"):
            raise ValueError(f"sweep.axis: {self.sweep.axis} has no effect without a prologue")
        return self
