"""What a training stage leaves beside its model."""

import shutil
from pathlib import Path

from prologue.files import replacing


def write_curves(source: Path, output: Path) -> None:
    """Copy the TSVs that DVCLive wrote (one per measurement) to the stage's output folder."""
    with replacing(output) as temporary:
        shutil.copytree(source / "plots" / "metrics", temporary)
