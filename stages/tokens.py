"""Encode every image of the shards once."""

from pathlib import Path
from typing import Any

from prologue.data.tokens import write_tokens
from prologue.params import Params
from prologue.stage import run_stage


def main(params: Params) -> dict[str, Any]:
    return write_tokens(params, Path("models/attached"), shards=Path("data/shards"), output=Path("data/tokens"))


run_stage("tokens", main)
