"""Measure the samples against the real images."""

from pathlib import Path
from typing import Any

from prologue.evaluation.generation import evaluate_generation
from prologue.params import Params
from prologue.stage import run_stage


def main(params: Params) -> dict[str, Any]:
    return evaluate_generation(params, samples_folder=Path("data/samples"), reference_folder=Path("data/reference"))


run_stage("evaluate_generation", main)
