"""A published tokenizer in place of a trained one."""

from pathlib import Path
from typing import Any

from prologue.data.images import ImageShards
from prologue.interop.described import check_params, describe_tokenizer, provenance
from prologue.interop.published import TOKENIZER_FILES, load_tokenizer
from prologue.models.export import parameter_count, save_model
from prologue.params import Params
from prologue.runtime import start_accelerator
from prologue.training.validation import validate_tokenizer


def import_tokenizer(params: Params, shards: Path, output: Path, curves: Path) -> dict[str, Any]:
    """Save the EMA tokenizer of the published folder `tokenizer.path` to `output`; returns the metrics of the stage.

    Raises:
        PrologueError: the folder is wrong or partial, or its tokenizer is not the one that the params describe.
    """
    accelerator = start_accelerator()
    folder = params.tokenizer.path
    tokenizer = load_tokenizer(folder)
    described = describe_tokenizer(tokenizer)
    if params.prologue.mode == "post" and not tokenizer.prologue_tokens:
        del described["prologue.mode"]  # stage attach adds the prologue
    check_params(params, described, folder)
    measured = validate_tokenizer(tokenizer.to(accelerator.device), None, ImageShards(shards, "val"))
    if accelerator.is_main_process:
        save_model(output, tokenizer)
        curves.mkdir(parents=True, exist_ok=True)
    accelerator.wait_for_everyone()
    parts = {"encoder": tokenizer.encoder, "decoder": tokenizer.decoder}
    return {
        "imported": provenance([folder / "tokenizer" / name for name in TOKENIZER_FILES["ema"]]),
        "parameters": {name: parameter_count(part) for name, part in parts.items()},
        "val": measured,
    }
