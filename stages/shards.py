"""Turn `data.source` into webdataset shards."""

from pathlib import Path

from prologue.core.stage import run_stage
from prologue.data.shards import write_shards

if __name__ == "__main__":  # worker processes import this file
    run_stage(
        "shards",
        lambda params: write_shards(params.data, params.seed, output=Path("data/shards")),
    )
