"""Measure the samples against the real images."""

from pathlib import Path

from prologue.core.stage import run_stage
from prologue.evaluation.generation import evaluate_generation

run_stage(
    "evaluate_generation",
    lambda params: evaluate_generation(
        params,
        samples_folder=Path("data/samples"),
        reference_folder=Path("data/reference"),
        reconstructions_folder=Path("data/reconstructions"),
    ),
)
