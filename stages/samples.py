"""Sample images with and without guidance, and with the prologue held fixed."""

from pathlib import Path
from typing import Any

from prologue.params import Params
from prologue.sampling.samples import write_samples
from prologue.stage import run_stage


def main(params: Params) -> dict[str, Any]:
    return write_samples(
        params,
        ar_folder=Path("models/ar"),
        tokenizer_folder=Path("models/attached"),
        tokens=Path("data/tokens"),
        shards=Path("data/shards"),
        output=Path("data/samples"),
        figures=Path("reports/figures/samples"),
    )


run_stage("samples", main)
