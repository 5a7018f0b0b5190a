"""Features and statistics of the real images, once per dataset and extractor."""

from pathlib import Path
from typing import Any

from prologue.core.params import Params
from prologue.core.stage import run_stage
from prologue.evaluation.reference import compute_reference


def main(params: Params) -> dict[str, Any]:
    return compute_reference(params, shards=Path("data/shards"), output=Path("data/reference"))


run_stage("reference", main, processes="configured")
