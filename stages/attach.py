"""Prologue-Post: learn a prologue for the frozen tokenizer; other systems pass through."""

from pathlib import Path
from typing import Any

from prologue.core.params import Params
from prologue.core.stage import run_stage
from prologue.pipeline.attach import make_attached


def main(params: Params) -> dict[str, Any]:
    return make_attached(
        params,
        tokenizer=Path("models/tokenizer"),
        shards=Path("data/shards"),
        output=Path("models/attached"),
        curves=Path("reports/curves/attach"),
    )


run_stage("attach", main, processes="configured")
