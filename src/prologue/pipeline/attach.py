"""The stage attach: Prologue-Post's prologue for the frozen tokenizer; every other tokenizer passes through."""

from functools import partial
from pathlib import Path
from typing import Any

from prologue.core.params import Params
from prologue.core.precision import settle
from prologue.data.images import ImageShards
from prologue.models.saved import load_tokenizer
from prologue.pipeline.passing import pass_through
from prologue.pipeline.pictures import reconstruction_grid
from prologue.training.attach import attach_prologue
from prologue.training.plan import plan_attach


def make_attached(params: Params, tokenizer: Path, shards: Path, output: Path, curves: Path) -> dict[str, Any]:
    """Learn a prologue for the tokenizer in mode post; pass through any other, or one that has its prologue already.

    Returns the metrics of the stage.
    """
    plan, count = plan_attach(settle(params)), params.stage1.validation_grid
    if plan is None or load_tokenizer(tokenizer).prologue_tokens:
        pass_through(tokenizer, output, curves)
        return {"attached": False}
    draw = partial(reconstruction_grid, images=ImageShards(shards, "val"), count=count) if count else None
    return attach_prologue(plan, tokenizer, shards, output, curves, draw)
