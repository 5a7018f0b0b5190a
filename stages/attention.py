"""Draw and measure what the AR model attends to."""

from pathlib import Path
from typing import Any

from prologue.core.params import Params
from prologue.core.stage import run_stage
from prologue.evaluation.attention import evaluate_attention


def main(_: Params) -> dict[str, Any]:
    return evaluate_attention(
        ar_folder=Path("models/ar"),
        tokenizer_folder=Path("models/attached"),
        tokens=Path("data/tokens"),
        shards=Path("data/shards"),
        figures=Path("reports/figures/attention"),
    )


run_stage("attention", main, processes="configured")
