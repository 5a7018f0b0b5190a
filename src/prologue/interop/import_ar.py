"""A published AR model in place of a trained one."""

from pathlib import Path
from typing import Any

import numpy as np

from prologue.data.tokens import TokenCache
from prologue.errors import PrologueError
from prologue.evaluation.likelihood import evaluate_likelihood
from prologue.interop.described import check_params, describe_ar, provenance
from prologue.interop.published import ar_file, load_ar
from prologue.models import export
from prologue.params import Params
from prologue.runtime import start_accelerator


def import_ar(params: Params, tokenizer_folder: Path, tokens: Path, output: Path, curves: Path) -> dict[str, Any]:
    """Save the raw AR model of the published folder `ar.path` to `output`; returns the metrics of the stage.

    Raises:
        PrologueError: as `import_tokenizer`; also where the model knows another number of classes than the dataset.
    """
    accelerator = start_accelerator()
    folder = params.ar.path
    ar = load_ar(folder, export.load_tokenizer(tokenizer_folder)).to(accelerator.device)
    check_params(params, describe_ar(ar), folder)
    cache = TokenCache(tokens, "val")
    if ar.vocabulary.classes != cache.vocabulary.classes:
        raise PrologueError(
            f"{folder}: its AR model knows {ar.vocabulary.classes} classes, the images of data.source have "
            f"{cache.vocabulary.classes}; use the dataset that it was trained on"
        )
    measured = evaluate_likelihood(ar, cache, np.arange(len(cache)))
    if accelerator.is_main_process:
        export.save_model(output, ar)
        curves.mkdir(parents=True, exist_ok=True)
    accelerator.wait_for_everyone()
    return {
        "imported": provenance([ar_file(folder, "raw")]),
        "parameters": {"ar": export.parameter_count(ar)},
        "val": measured,
    }
