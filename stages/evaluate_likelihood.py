"""Measure how well the AR model predicts validation tokens, at every position."""

from pathlib import Path
from typing import Any

from prologue.core.params import Params
from prologue.core.stage import run_stage
from prologue.evaluation.likelihood import evaluate_ar


def main(params: Params) -> dict[str, Any]:
    return evaluate_ar(
        ar_folder=Path("models/ar"), tokens=Path("data/tokens"), figures=Path("reports/figures/likelihood")
    )


run_stage("evaluate_likelihood", main, processes="configured")
