"""The stage ar: Stage 2, an imported AR model in its place, or Prologue-OneStage's, which Stage 1 trained."""

from functools import partial
from pathlib import Path
from typing import Any

from prologue.core.errors import PrologueError
from prologue.core.params import Params
from prologue.core.precision import settle
from prologue.core.runtime import start_accelerator
from prologue.interop.imported import check_params, describe_ar, files_below, load_imported_ar, provenance
from prologue.models.saved import load_ar, load_tokenizer, parameter_count, save_model
from prologue.pipeline.passing import pass_through
from prologue.pipeline.pictures import sample_grid
from prologue.tokens.cache import TokenCache
from prologue.training.ar import train_ar
from prologue.training.output import write_no_curves


def make_ar(params: Params, tokenizer: Path, tokens: Path, output: Path, curves: Path) -> dict[str, Any]:
    """Train the AR model, or import it, as `ar.source` says, or pass Prologue-OneStage's through; returns metrics."""
    if params.ar.source != "train":
        return import_ar(params, tokenizer, tokens, output, curves)
    if params.prologue.mode == "onestage":  # the AR model that Stage 1 trained is the one that samples (App. D)
        pass_through(tokenizer / "ar", output, curves)
        return {"parameters": {"ar": parameter_count(load_ar(output))}, "trained_in_stage1": True}
    params, count = settle(params), params.ar.validation_grid
    draw = partial(sample_grid, tokenizer=load_tokenizer(tokenizer), count=count) if count else None
    return train_ar(params, tokens, output, curves, draw)


def import_ar(params: Params, tokenizer_folder: Path, tokens: Path, output: Path, curves: Path) -> dict[str, Any]:
    """Save the AR model of the folder `ar.path` to `output`; returns the metrics of the stage.

    Raises:
        PrologueError: as `import_tokenizer`; also where the model is over another vocabulary or another number of
            classes than the cached tokens.
    """
    accelerator = start_accelerator()
    folder = params.ar.path
    ar = load_imported_ar(params.ar.source, folder, load_tokenizer(tokenizer_folder)).to(accelerator.device)
    check_params(params, describe_ar(ar), folder)
    cache = TokenCache(tokens, "val")
    if ar.vocabulary != cache.vocabulary:
        raise PrologueError(
            f"{folder}: its AR model is over {ar.vocabulary}, the cached tokens over {cache.vocabulary}; "
            "use the tokenizer and the classes that it was trained on"
        )
    if accelerator.is_main_process:
        save_model(output, ar)
        write_no_curves(curves)
    accelerator.wait_for_everyone()
    return {"imported": provenance(files_below(folder)), "parameters": {"ar": parameter_count(ar)}}
