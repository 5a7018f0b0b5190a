"""What each stage depends on beside its data: its code, and the plan of a training on images."""

from pathlib import Path
from typing import Any

from prologue.core.params import Params
from prologue.core.stage import run_stage
from prologue.pipeline.plan import write_plans


def main(params: Params) -> dict[str, Any]:
    write_plans(params, stages=Path("stages"), output=Path("data/plan"))
    return {"mode": params.prologue.mode}


run_stage("plan", main, processes="one")
