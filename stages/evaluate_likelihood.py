"""Measure how well the AR model predicts validation tokens, at every position."""

from pathlib import Path

from prologue.core.stage import run_stage
from prologue.evaluation.likelihood import evaluate_ar

run_stage(
    "evaluate_likelihood",
    lambda params: evaluate_ar(
        ar_folder=Path("models/ar"), tokens=Path("data/tokens"), figures=Path("reports/figures/likelihood")
    ),
)
