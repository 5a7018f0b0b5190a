"""An imported tokenizer in place of a trained one."""

from pathlib import Path
from typing import Any

from prologue.data.images import ImageShards
from prologue.interop.sources import check_params, describe_tokenizer, load_imported_tokenizer, provenance
from prologue.models.export import parameter_count, save_model
from prologue.params import Params
from prologue.runtime import start_accelerator
from prologue.training.validation import validate_tokenizer


def import_tokenizer(params: Params, shards: Path, output: Path, curves: Path) -> dict[str, Any]:
    """Save the tokenizer of the folder `tokenizer.path` to `output`; returns the metrics of the stage.

    Raises:
        PrologueError: the folder is wrong or partial, or its tokenizer is not the one that the params describe.
    """
    accelerator = start_accelerator()
    own = params.tokenizer
    tokenizer = load_imported_tokenizer(own.source, own.path, params.data.image_size, own.pixels)
    described = describe_tokenizer(tokenizer)
    if params.prologue.mode == "post" and not tokenizer.prologue_tokens:
        del described["prologue.mode"]  # stage attach adds the prologue
    check_params(params, described, own.path)
    measured = validate_tokenizer(tokenizer.to(accelerator.device), None, ImageShards(shards, "val"))
    if accelerator.is_main_process:
        save_model(output, tokenizer)
        curves.mkdir(parents=True, exist_ok=True)
    accelerator.wait_for_everyone()
    parts = {"encoder": tokenizer.encoder, "decoder": tokenizer.decoder}
    return {
        "imported": provenance(own.path),
        "parameters": {name: parameter_count(part) for name, part in parts.items()},
        "val": measured,
    }
