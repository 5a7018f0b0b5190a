"""What a training stage leaves behind."""

import shutil
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator

from prologue.files import replacing
from prologue.models.ar import ARModel
from prologue.models.export import save_model
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


def write_curves(source: Path, output: Path) -> None:
    """Copy what DVCLive wrote, a TSV per measurement and the pictures, to the stage's output folder."""
    with replacing(output) as temporary:
        shutil.copytree(source / "plots" / "metrics", temporary)
        if (source / "plots" / "images").is_dir():
            shutil.copytree(source / "plots" / "images", temporary / "images")
