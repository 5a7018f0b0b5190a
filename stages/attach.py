"""Prologue-Post: learn a prologue for the frozen tokenizer; other systems pass through."""

from pathlib import Path
from typing import Any

from prologue.params import Params
from prologue.stage import run_stage
from prologue.training.attach import make_attached


def main(params: Params) -> dict[str, Any]:
    return make_attached(
        params,
        tokenizer=Path("models/tokenizer"),
        shards=Path("data/shards"),
        output=Path("models/attached"),
        curves=Path("reports/curves/attach"),
    )


run_stage("attach", main)
