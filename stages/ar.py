"""Stage 2: train the full-size AR model on the cached tokens."""

from pathlib import Path
from typing import Any

from prologue.params import Params
from prologue.stage import run_stage
from prologue.training.ar import train_ar


def main(params: Params) -> dict[str, Any]:
    return train_ar(params, tokens=Path("data/tokens"), output=Path("models/ar"), curves=Path("reports/curves/ar"))


run_stage("ar", main)
