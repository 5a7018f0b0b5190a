"""Measure reconstructions of the validation images."""

from pathlib import Path

from prologue.core.stage import run_stage
from prologue.evaluation.reconstruction import evaluate_reconstruction

run_stage(
    "evaluate_reconstruction",
    lambda params: evaluate_reconstruction(
        params,
        Path("models/attached"),
        shards=Path("data/shards"),
        reference_folder=Path("data/reference"),
        output=Path("data/reconstructions"),
        figures=Path("reports/figures/reconstruction"),
    ),
)
