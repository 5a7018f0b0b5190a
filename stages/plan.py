"""Resolve the params into what each training on images depends on."""

from pathlib import Path
from typing import Any

from prologue.params import Params
from prologue.plan import write_plans
from prologue.stage import run_stage


def main(params: Params) -> dict[str, Any]:
    write_plans(params, output=Path("data/plan"))
    return {"mode": params.prologue.mode}


run_stage("plan", main)
