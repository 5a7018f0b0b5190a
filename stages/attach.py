"""Prologue-Post: learn a prologue for the frozen tokenizer; other systems pass through."""

from pathlib import Path

from prologue.core.stage import run_stage
from prologue.pipeline.attach import make_attached

run_stage(
    "attach",
    lambda params: make_attached(
        params,
        tokenizer=Path("models/tokenizer"),
        shards=Path("data/shards"),
        output=Path("models/attached"),
        curves=Path("reports/curves/attach"),
    ),
)
