"""What each stage depends on beside its data: its code, and for trainings on images what the mode makes of the params.

What a system does not use is not in its plan: modes none and post plan the same tokenizer, so that DVC trains it once.
"""

import json
from pathlib import Path
from typing import Any

from prologue.core.code import code_digests
from prologue.core.files import replacing
from prologue.core.params import Params
from prologue.training.plan import plan_attach, plan_tokenizer


def write_plans(params: Params, stages: Path, output: Path) -> dict[str, Any]:
    """Write OUTPUT/STAGE.json for the script of every stage but this one, which depends on it; returns the metrics."""
    with replacing(output) as folder:
        folder.mkdir()
        for name, content in plan_files(params, stages).items():
            (folder / name).write_text(content)
    return {"mode": params.prologue.mode}


def plan_files(params: Params, stages: Path) -> dict[str, str]:
    """Content of the file of every stage, by name."""
    plans: dict[str, Any] = {"tokenizer": _plan_of_tokenizer(params), "attach": None}
    if attach := plan_attach(params):
        plans["attach"] = attach.model_dump(mode="json")
    scripts = [script for script in sorted(stages.glob("*.py")) if script.stem != "plan"]
    return {
        f"{script.stem}.json": json.dumps({"plan": plans.get(script.stem), "code": code_digests(script)}, indent=2)
        + "\n"
        for script in scripts
    }


def _plan_of_tokenizer(params: Params) -> dict[str, Any]:
    if params.tokenizer.source == "train":
        return plan_tokenizer(params).model_dump(mode="json")
    described = params.model_dump(mode="json", include={"tokenizer", "prologue"})
    return described | {"image_size": params.data.image_size}  # an import is checked against all that params say of it
