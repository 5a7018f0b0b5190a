"""Measure generation over the values of one sampling setting."""

from pathlib import Path
from typing import Any

from prologue.core.params import Params
from prologue.core.stage import run_stage
from prologue.evaluation.sweep import sweep_sampling


def main(params: Params) -> dict[str, Any]:
    return sweep_sampling(
        params,
        ar_folder=Path("models/ar"),
        tokenizer_folder=Path("models/attached"),
        tokens=Path("data/tokens"),
        reference_folder=Path("data/reference"),
        figures=Path("reports/figures/sweep"),
    )


run_stage("sweep", main, processes="configured")
