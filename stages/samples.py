"""Sample images with and without guidance, and with the prologue held fixed."""

from pathlib import Path

from prologue.core.stage import run_stage
from prologue.pipeline.samples import make_samples

run_stage(
    "samples",
    lambda params: make_samples(
        params,
        ar_folder=Path("models/ar"),
        tokenizer_folder=Path("models/attached"),
        tokens=Path("data/tokens"),
        shards=Path("data/shards"),
        sweep=Path("data/sweep"),
        output=Path("data/samples"),
        figures=Path("reports/figures/samples"),
    ),
)
