"""Measure generation over the values of one sampling setting."""

from pathlib import Path

from prologue.core.stage import run_stage
from prologue.evaluation.sweep import sweep_sampling

run_stage(
    "sweep",
    lambda params: sweep_sampling(
        params,
        ar_folder=Path("models/ar"),
        tokenizer_folder=Path("models/attached"),
        tokens=Path("data/tokens"),
        reference_folder=Path("data/reference"),
        figures=Path("reports/figures/sweep"),
    ),
)
