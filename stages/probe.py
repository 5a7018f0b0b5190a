"""Linear probe of the frozen tokenizer: what do the prologue tokens know of the class?"""

from pathlib import Path
from typing import Any

from prologue.core.params import Params
from prologue.core.stage import run_stage
from prologue.probe.run import run_probe


def main(params: Params) -> dict[str, Any]:
    return run_probe(
        params,
        attached=Path("models/attached"),
        shards=Path("data/shards"),
        curves=Path("reports/curves/probe"),
    )


run_stage("probe", main, processes="configured")
