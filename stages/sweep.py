"""Measure generation over the values of one sampling setting."""

from pathlib import Path
from typing import Any

from prologue.evaluation.sweep import sweep_sampling
from prologue.params import Params
from prologue.stage import run_stage


def main(params: Params) -> dict[str, Any]:
    return sweep_sampling(
        params,
        ar_folder=Path("models/ar"),
        tokenizer_folder=Path("models/attached"),
        tokens=Path("data/tokens"),
        reference_folder=Path("data/reference"),
        figures=Path("reports/figures/sweep"),
    )


run_stage("sweep", main)
