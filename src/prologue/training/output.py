"""What a training stage leaves behind."""

import shutil
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator

from prologue.core.files import replacing
from prologue.models.ar import ARModel
from prologue.models.saved import save_model
from prologue.models.tokenizer import Tokenizer
from prologue.training.checkpoint import Checkpoints


def export_training(checkpoints: Checkpoints, curves: Path, accelerator: Accelerator, save: Callable[[], None]) -> None:
    """Write a finished training's model, by `save`, and its curves; its last checkpoint stays until another run."""
    if accelerator.is_main_process:
        save()
        write_curves(checkpoints.curves, curves)
        checkpoints.finish()
    accelerator.wait_for_everyone()


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
