"""Encode every image of the shards once."""

from pathlib import Path

from prologue.core.stage import run_stage
from prologue.tokens.encoding import write_tokens

run_stage(
    "tokens",
    lambda params: write_tokens(
        params, Path("models/attached"), shards=Path("data/shards"), output=Path("data/tokens")
    ),
)
