"""Sample images with and without guidance, and with the prologue held fixed."""

from pathlib import Path
from typing import Any

from prologue.core.params import Params
from prologue.core.stage import run_stage
from prologue.pipeline.samples import make_samples


def main(params: Params) -> dict[str, Any]:
    return make_samples(
        params,
        ar_folder=Path("models/ar"),
        tokenizer_folder=Path("models/attached"),
        tokens=Path("data/tokens"),
        shards=Path("data/shards"),
        output=Path("data/samples"),
        figures=Path("reports/figures/samples"),
    )


run_stage("samples", main, processes="configured")
