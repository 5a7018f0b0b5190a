"""Stage 1: train the tokenizer, alone or with its prologue, or import a published one."""

from pathlib import Path

from prologue.core.stage import run_stage
from prologue.pipeline.tokenizer import make_tokenizer

run_stage(
    "tokenizer",
    lambda params: make_tokenizer(
        params, shards=Path("data/shards"), output=Path("models/tokenizer"), curves=Path("reports/curves/tokenizer")
    ),
)
