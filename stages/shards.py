"""Turn `data.source` into webdataset shards."""

from pathlib import Path
from typing import Any

from prologue.core.params import Params
from prologue.core.stage import run_stage
from prologue.data.shards import write_shards


def main(params: Params) -> dict[str, Any]:
    return write_shards(params.data, params.seed, output=Path("data/shards"))


if __name__ == "__main__":  # worker processes import this file
    run_stage("shards", main, processes="configured")
