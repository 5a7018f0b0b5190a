"""The stage tokenizer: Stage 1, or an imported tokenizer in its place."""

from functools import partial
from pathlib import Path
from typing import Any

from prologue.core.params import Params
from prologue.core.precision import settle
from prologue.core.runtime import start_accelerator
from prologue.data.images import ImageShards
from prologue.interop.imported import check_params, describe_tokenizer, load_imported_tokenizer, provenance
from prologue.models.saved import parameter_count, save_model
from prologue.pipeline.pictures import reconstruction_grid
from prologue.training.output import write_no_curves
from prologue.training.plan import plan_tokenizer
from prologue.training.tokenizer import train_tokenizer
from prologue.training.validation import validate_tokenizer


def make_tokenizer(params: Params, shards: Path, output: Path, curves: Path) -> dict[str, Any]:
    """Train the tokenizer, or import it, as `tokenizer.source` says; returns the metrics of the stage."""
    if params.tokenizer.source != "train":
        return import_tokenizer(params, shards, output, curves)
    params, count = settle(params), params.stage1.validation_grid
    draw = partial(reconstruction_grid, images=ImageShards(shards, "val"), count=count) if count else None
    return train_tokenizer(plan_tokenizer(params), shards, output, curves, draw)


def import_tokenizer(params: Params, shards: Path, output: Path, curves: Path) -> dict[str, Any]:
    """Save the tokenizer of the file or folder `tokenizer.path` to `output`; returns the metrics of the stage.

    Raises:
        PrologueError: the folder is wrong or partial, or its tokenizer is not the one that the params describe.
    """
    accelerator = start_accelerator()
    own = params.tokenizer
    found = load_imported_tokenizer(own.source, own.path, params.data.image_size, own.pixels)
    tokenizer = found.tokenizer
    described = describe_tokenizer(tokenizer)
    if params.prologue.mode == "post" and not tokenizer.prologue_tokens:
        del described["prologue.mode"]  # stage attach adds the prologue
    check_params(params, described, own.path)
    measured = validate_tokenizer(tokenizer.to(accelerator.device), None, ImageShards(shards, "val"), accelerator)
    if accelerator.is_main_process:
        save_model(output, tokenizer)
        write_no_curves(curves)
    accelerator.wait_for_everyone()
    parts = {"encoder": tokenizer.encoder, "decoder": tokenizer.decoder}
    return {
        "imported": provenance(found.files),
        "parameters": {name: parameter_count(part) for name, part in parts.items()},
        "val": measured,
    }
