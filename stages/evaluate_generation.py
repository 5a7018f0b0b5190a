"""Measure the samples against the real images."""

from pathlib import Path
from typing import Any

from prologue.core.params import Params
from prologue.core.stage import run_stage
from prologue.evaluation.generation import evaluate_generation


def main(params: Params) -> dict[str, Any]:
    return evaluate_generation(params, samples_folder=Path("data/samples"), reference_folder=Path("data/reference"))


run_stage("evaluate_generation", main, processes="configured")
