"""Stage 1: train the tokenizer, alone or with its prologue, or import a published one."""

from pathlib import Path
from typing import Any

from prologue.params import Params
from prologue.stage import run_stage
from prologue.training.tokenizer import make_tokenizer


def main(params: Params) -> dict[str, Any]:
    return make_tokenizer(
        params, shards=Path("data/shards"), output=Path("models/tokenizer"), curves=Path("reports/curves/tokenizer")
    )


run_stage("tokenizer", main)
