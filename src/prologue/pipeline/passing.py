"""A model that passes through a stage which has nothing to train."""

import shutil
from pathlib import Path

from prologue.core.files import replacing
from prologue.core.runtime import start_accelerator
from prologue.training.output import write_no_curves


def pass_through(model: Path, output: Path, curves: Path) -> None:
    """Copy a model's folder to `output`, by one process of the launch; there are no curves."""
    accelerator = start_accelerator()
    if accelerator.is_main_process:
        with replacing(output) as temporary:
            shutil.copytree(model, temporary)
        write_no_curves(curves)
    accelerator.wait_for_everyone()
