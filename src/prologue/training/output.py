"""What a training stage leaves behind."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from PIL.Image import Image

from prologue.core.files import replacing
from prologue.core.params import LoopParams
from prologue.core.work import Origin
from prologue.models.ar import ARModel
from prologue.models.saved import save_model
from prologue.models.tokenizer import Tokenizer
from prologue.training.checkpoint import Checkpoints
from prologue.training.loop import Task, train


def run_training(
    stage: str,
    task: Task[Any],
    params: LoopParams,
    seed: int,
    origin: Origin,
    accelerator: Accelerator,
    curves: Path,
    save: Callable[[], None] = lambda: None,
    draw: Callable[[], Image] | None = None,
) -> dict[str, Any]:
    """Train as `train` does, then write the model by `save`, if it is wanted, and the curves; returns its metrics.

    The last checkpoint stays until another run of the stage.
    """
    checkpoints = Checkpoints(stage, origin, params.keep_checkpoints)
    metrics = train(task, params, seed, checkpoints, accelerator, draw)
    if accelerator.is_main_process:
        save()
        write_curves(checkpoints.curves, curves)
        checkpoints.finish()
    accelerator.wait_for_everyone()
    return metrics


def save_tokenizer(folder: Path, tokenizer: Tokenizer, joint_ar: ARModel | None) -> None:
    """Save a tokenizer, and in FOLDER/ar the AR model that was trained beside it."""
    with replacing(folder) as temporary:
        save_model(temporary, tokenizer)
        if joint_ar is not None:
            save_model(temporary / "ar", joint_ar)


def write_no_curves(output: Path) -> None:
    """Leave a note in place of the curves of a stage that trained nothing: DVC warns of an empty folder."""
    with replacing(output) as temporary:
        temporary.mkdir()
        (temporary / "none.txt").write_text("This stage trained nothing.\n")


def write_curves(source: Path, output: Path) -> None:
    """Copy the points that DVCLive wrote, a TSV per measurement, to the stage's output folder."""
    with replacing(output) as temporary:
        shutil.copytree(source / "plots" / "metrics", temporary)
