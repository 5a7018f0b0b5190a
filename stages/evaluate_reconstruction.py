"""Measure reconstructions of the validation images."""

from pathlib import Path
from typing import Any

from prologue.core.params import Params
from prologue.core.stage import run_stage
from prologue.evaluation.reconstruction import evaluate_reconstruction


def main(params: Params) -> dict[str, Any]:
    return evaluate_reconstruction(
        params,
        Path("models/attached"),
        shards=Path("data/shards"),
        reference_folder=Path("data/reference"),
        figures=Path("reports/figures/reconstruction"),
    )


run_stage("evaluate_reconstruction", main, processes="configured")
