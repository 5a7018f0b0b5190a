"""What the params of a system amount to, whichever stage asks."""

from typing import TypeVar

from pydantic import ValidationError

from prologue.core.params import Params, Section, TokenizerParams, TokenizerSize

Run = TypeVar("Run", bound=Section)


def tokenizer_size(params: TokenizerParams) -> TokenizerSize:
    """What shapes a tokenizer, without where it comes from."""
    return TokenizerSize(**params.model_dump(include=set(TokenizerSize.model_fields)))


def has_prologue(params: Params) -> bool:
    """Whether the AR model reads prologue tokens."""
    return params.prologue.mode not in ("none", "routed")


def trains_both(params: Params) -> bool:
    """Whether neither the tokenizer nor the AR model is imported."""
    return params.tokenizer.source == params.ar.source == "train"


def trains_stage2(params: Params) -> bool:
    """Whether an AR model is trained on cached tokens: not where it is imported, or was trained in Stage 1."""
    return params.ar.source == "train" and params.prologue.mode != "onestage"


def with_setting(run: Run, axis: str, value: float) -> Run:
    """A run of samples with its setting `axis` (SEGMENT.KEY) at a value. Raises ValueError for one out of range."""
    segment, key = axis.split(".")
    changed = run.model_dump()
    kind = int if key == "top_k" and value == int(value) else float
    changed[segment][key] = kind(value)
    try:
        return type(run).model_validate(changed)
    except ValidationError as error:
        message = error.errors()[0]["msg"]
        raise ValueError(f"{axis} cannot be {value:g}: {message}") from None
