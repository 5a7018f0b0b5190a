"""Measure generation over values of sampling settings, of which the samples take the best where `sweep.adopt` is on."""

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
        output=Path("data/sweep"),
        figures=Path("reports/figures/sweep"),
    ),
)
