"""An imported AR model in place of a trained one."""

from pathlib import Path
from typing import Any

from prologue.data.tokens import TokenCache
from prologue.errors import PrologueError
from prologue.interop.sources import check_params, describe_ar, load_imported_ar, provenance
from prologue.models import export
from prologue.params import Params
from prologue.runtime import start_accelerator


def import_ar(params: Params, tokenizer_folder: Path, tokens: Path, output: Path, curves: Path) -> dict[str, Any]:
    """Save the AR model of the folder `ar.path` to `output`; returns the metrics of the stage.

    Raises:
        PrologueError: as `import_tokenizer`; also where the model is over another vocabulary or another number of
            classes than the cached tokens.
    """
    accelerator = start_accelerator()
    folder = params.ar.path
    ar = load_imported_ar(params.ar.source, folder, export.load_tokenizer(tokenizer_folder)).to(accelerator.device)
    check_params(params, describe_ar(ar), folder)
    cache = TokenCache(tokens, "val")
    if ar.vocabulary != cache.vocabulary:
        raise PrologueError(
            f"{folder}: its AR model is over {ar.vocabulary}, the cached tokens over {cache.vocabulary}; "
            "use the tokenizer and the classes that it was trained on"
        )
    if accelerator.is_main_process:
        export.save_model(output, ar)
        curves.mkdir(parents=True, exist_ok=True)
    accelerator.wait_for_everyone()
    return {
        "imported": provenance(folder),
        "parameters": {"ar": export.parameter_count(ar)},
    }
