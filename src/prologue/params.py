"""The params of params.yaml: one model per section, validated before any work.

Unknown keys, wrong types and values out of range raise `ParamsError`, whose message names every bad key.
"""

import difflib
import re
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from prologue.errors import PrologueError

PARAMS_FILE = Path("params.yaml")
HEAD_DIM = 64

Count = Annotated[int, Field(ge=1)]
OptionalCount = Annotated[int | None, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
EPOCHS = re.compile(r"(\d+(?:\.\d+)?)epochs")
TransformerDim = Annotated[int, Field(ge=HEAD_DIM, multiple_of=HEAD_DIM)]
Precision = Literal["bf16", "fp32"]
Source = Literal["train", "published", "folder"]
TokenId = Annotated[int, Field(ge=2, le=65534)]


def _check_duration(value: object) -> object:
    steps = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if steps or (isinstance(value, str) and EPOCHS.fullmatch(value)):
        return value
    raise ValueError("Input should be a number of steps, or of epochs as in 1.5epochs")


Duration = Annotated[int | str, BeforeValidator(_check_duration)]


class ParamsError(PrologueError):
    """params.yaml cannot be used; the message names each bad key and what is allowed."""


class Section(BaseModel):
    """A section of params.yaml: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataParams(Section):
    source: Path
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
    patch: Count
    code_dim: Count
    codebook: TokenId
    commitment: NonNegative
    encoder: TransformerParams
    decoder: TransformerParams

    @property
    def feature_dim(self) -> int:
        """Channels of the encoder's features."""
        return self.encoder.dim


class TokenizerParams(TokenizerSize):
    source: Source | Literal["vq_model"]
    path: Path
    pixels: Literal["signed", "unit"]

    @property
    def size(self) -> TokenizerSize:
        """The same without where it comes from."""
        return TokenizerSize(**self.model_dump(exclude={"source", "path", "pixels"}))


class PostParams(TransformerParams):
    """Prologue-Post's own encoder, and how long it is trained."""

    steps: Duration


class PrologueParams(Section):
    mode: Literal["joint", "post", "onestage", "none", "routed"]
    tokens: Count
    codebook: TokenId
    tau: Positive
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
    path: Path
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


SAMPLING_RUNS = ("cfg", "no_cfg")  # with guidance and without


class SamplingParams(Section):
    images: Annotated[int, Field(ge=10)]  # the inception score has 10 splits
    classes: list[str | int] | None
    precision: Precision
    files: Literal["none", "png", "webp"]
    rows: Count
    cfg: GuidedRunParams
    no_cfg: PlainRunParams


class SweepParams(Section):
    axis: Literal[
        "prologue.guidance",
        "prologue.power",
        "prologue.temperature",
        "prologue.top_k",
        "prologue.top_p",
        "visual.guidance",
        "visual.power",
        "visual.temperature",
        "visual.top_k",
        "visual.top_p",
    ]
    values: list[float]
    images: Annotated[int, Field(ge=10)]  # the inception score has 10 splits

    def run_at(self, value: float, run: GuidedRunParams) -> GuidedRunParams:
        """The guided run with the axis at a value. Raises ValueError for one out of its range."""
        segment, key = self.axis.split(".")
        changed = run.model_dump()
        changed[segment][key] = value
        try:
            return GuidedRunParams.model_validate(changed)
        except ValidationError as error:
            raise ValueError(f"sweep.values: {self.axis} cannot be {value:g}: {error.errors()[0]['msg']}") from None


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

    @property
    def has_prologue(self) -> bool:
        """Whether the AR model reads prologue tokens."""
        return self.prologue.mode not in ("none", "routed")

    @property
    def trains_stage2(self) -> bool:
        """Whether an AR model is trained on cached tokens: not where it is imported, or was trained in Stage 1."""
        return self.ar.source == "train" and self.prologue.mode != "onestage"

    @model_validator(mode="after")
    def sections_fit_together(self) -> "Params":
        """The image is a whole number of patches, all ids fit uint16, and models come from where they can."""
        if self.data.image_size % self.tokenizer.patch:
            raise ValueError(
                f"tokenizer.patch: {self.tokenizer.patch} does not divide data.image_size {self.data.image_size}"
            )
        vocabulary = self.tokenizer.codebook + self.prologue.codebook + 1
        if vocabulary > 65536:
            raise ValueError(f"tokenizer.codebook + prologue.codebook + 1 = {vocabulary}, more than uint16 ids hold")
        if self.ar.source != "train" and self.tokenizer.source == "train":
            raise ValueError(
                f"ar.source: {self.ar.source} needs the tokenizer whose ids it reads, not one trained here"
            )
        if self.prologue.mode in ("onestage", "routed") and self.tokenizer.source != "train":
            raise ValueError(f"prologue.mode: {self.prologue.mode} trains its tokenizer: set tokenizer.source: train")
        for value in self.sweep.values:
            self.sweep.run_at(value, self.sampling.cfg)
        if self.sweep.values and self.sweep.axis.startswith("prologue.") and not self.has_prologue:
            raise ValueError(f"sweep.axis: {self.sweep.axis} has no effect without a prologue")
        return self


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and validate a params file.

    Raises:
        ParamsError: the file is missing, is not YAML, or holds a missing, unknown or bad key.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ParamsError(f"{path} not found: run from the root of the project") from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path} is not valid YAML: {error}") from None
    return validate(values, str(path))


def validate(values: object, source: str) -> Params:
    """Params of plain values. Raises ParamsError naming `source` and each bad key."""
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        problems = "\n".join(f"  {_explain(problem)}" for problem in error.errors())
        raise ParamsError(f"{source} cannot be used:\n{problems}") from None


def _explain(problem: ErrorDetails) -> str:
    """One line for one pydantic error: key, what is wrong, the nearest valid key."""
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key{_nearest(problem['loc'])}"
    if problem["type"] == "missing":
        return f"{key}: missing"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{key}: {message} (got {problem['input']!r})" if key else message


def _nearest(location: tuple[int | str, ...]) -> str:
    model: type[BaseModel] = Params
    *parents, key = map(str, location)
    for part in parents:
        annotation = model.model_fields[part].annotation
        assert isinstance(annotation, type)
        model = annotation
    close = difflib.get_close_matches(key, model.model_fields, n=1)
    known = ", ".join(model.model_fields)
    return f"; did you mean {close[0]}?" if close else f"; allowed here: {known}"
