"""What each stage depends on beside its data: its code, and for trainings what the mode makes of the params.

What a system does not use is not in its plan: modes none and post plan the same tokenizer, so that DVC trains it once.
"""

import json
from pathlib import Path
from typing import Any

from prologue.core.code import code_digests
from prologue.core.dotted import effective
from prologue.core.files import replacing
from prologue.core.params import Params
from prologue.core.systems import trains_stage2
from prologue.training.plan import plan_ar, plan_attach, plan_tokenizer


def write_plans(params: Params, stages: Path, output: Path) -> dict[str, Any]:
    """Write OUTPUT/STAGE.json for the script of every stage but this one, which depends on it; returns no metrics."""
    with replacing(output) as folder:
        folder.mkdir()
        for name, content in plan_files(params, stages).items():
            (folder / name).write_text(content)
    return {}


def plan_files(params: Params, stages: Path) -> dict[str, str]:
    """Content of the file of every stage, by name."""
    plans = {"tokenizer": _plan_of_tokenizer(params), "attach": _plan_of_attach(params), "ar": _plan_of_ar(params)}
    files = {}
    for script in sorted(stages.glob("*.py")):
        if script.stem != "plan":
            content = {"plan": effective(plans.get(script.stem, {})), "code": code_digests(script)}
            files[f"{script.stem}.json"] = json.dumps(content, indent=2) + "\n"
    return files


def _plan_of_tokenizer(params: Params) -> dict[str, Any]:
    if params.tokenizer.source == "train":
        return plan_tokenizer(params).model_dump(mode="json")
    described = params.model_dump(mode="json", include={"tokenizer", "prologue"})
    return described | {"image_size": params.data.image_size}  # an import is checked against all that params say of it


def _plan_of_attach(params: Params) -> dict[str, Any]:
    plan = plan_attach(params)
    return plan.model_dump(mode="json") if plan else {}


def _plan_of_ar(params: Params) -> dict[str, Any]:
    if params.ar.source != "train":
        return params.model_dump(mode="json", include={"ar", "prologue"})
    return plan_ar(params) if trains_stage2(params) else {"mode": params.prologue.mode}
