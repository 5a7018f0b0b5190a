"""Features and statistics of the real images, once per dataset and extractor."""

from pathlib import Path

from prologue.core.stage import run_stage
from prologue.evaluation.reference import compute_reference

run_stage(
    "reference",
    lambda params: compute_reference(params, shards=Path("data/shards"), output=Path("data/reference")),
)
