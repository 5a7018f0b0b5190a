"""Encode every image of the shards once."""

from pathlib import Path
from typing import Any

from prologue.core.params import Params
from prologue.core.stage import run_stage
from prologue.tokens.encoding import write_tokens


def main(params: Params) -> dict[str, Any]:
    return write_tokens(params, Path("models/attached"), shards=Path("data/shards"), output=Path("data/tokens"))


run_stage("tokens", main, processes="configured")
