"""Stage 1: train the tokenizer, alone or with its prologue, or import a published one."""

from pathlib import Path
from typing import Any

from prologue.core.params import Params
from prologue.core.stage import run_stage
from prologue.pipeline.tokenizer import make_tokenizer


def main(params: Params) -> dict[str, Any]:
    return make_tokenizer(
        params, shards=Path("data/shards"), output=Path("models/tokenizer"), curves=Path("reports/curves/tokenizer")
    )


run_stage("tokenizer", main, processes="configured")
