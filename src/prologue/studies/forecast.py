"""Whether results of an experiment are there, told before anything runs: in its commit, or in DVC's run-cache."""

import hashlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import networkx as nx
from dvc.dependency import loads_from
from dvc.dependency.param import ParamsDependency
from dvc.repo import Repo
from dvc.stage import PipelineStage
from dvc.utils import dict_sha256

from prologue.core.dotted import value_at
from prologue.core.errors import PrologueError
from prologue.core.files import json_text, read_yaml
from prologue.core.params import DataParams
from prologue.core.params_file import validate
from prologue.data.fingerprint import fingerprint
from prologue.pipeline.plan import plan_files

PLAN, SOURCE = Path("data/plan"), Path("data/source.json")  # of stages that are cheap enough to be run here instead
SCRIPTS = Path("stages")
PARAM = re.compile(r"\$\{([\w.]+)\}")  # in a path of dvc.yaml

Hashes = dict[str, str]  # path in the project -> MD5 of the file, or of the folder's listing
Values = dict[str, Any]  # what params.yaml will hold


def forecast(values: Values, targets: list[str]) -> dict[str, bool]:
    """For each stage that `targets` need, in the order of the DAG: whether its results are in the run-cache.

    A stage whose inputs are not known yet, because a stage before it has to run, counts as not cached: it may yet turn
    out to be, if that stage's results do not change.
    """
    with Repo() as repo:
        hashes = _hashes_made_here(values)
        cached = {}
        for stage in _needed(repo, targets):
            found = _in_run_cache(repo, stage, values, hashes)
            cached[str(stage.name)] = found is not None
            hashes |= found or {out.def_path: "" for out in stage.outs}
        return cached


def is_current(lock: dict[str, Any], values: Values, targets: list[str]) -> bool:
    """Whether a dvc.lock tells of runs of `targets`, and of all that they need, with these params and today's code.

    Of a source that is not on this machine the lock is believed.
    """
    with Repo() as repo:
        hashes = _hashes_made_here(values)
        for stage in _needed(repo, targets):
            entry = lock.get("stages", {}).get(stage.name)
            if entry is None:
                return False
            read = {dep["path"]: dep["md5"] for dep in entry["deps"]}
            absent = {path: md5 for path, md5 in read.items() if path == SOURCE.as_posix() or not Path(path).exists()}
            if _recorded(entry) != _identity(stage, values, absent | hashes):
                return False
            hashes |= {out["path"]: out["md5"] for out in entry["outs"]}
        return True


def is_of_source(lock: dict[str, Any], values: Values) -> bool:
    """Whether a dvc.lock tells of the images that lie at data.source; believed where none do on this machine."""
    today, entries = _hashes_made_here(values).get(SOURCE.as_posix()), lock.get("stages", {}).values()
    read = {dep["md5"] for entry in entries for dep in entry.get("deps", []) if dep["path"] == SOURCE.as_posix()}
    return today is None or read <= {today}


def _recorded(entry: dict[str, Any]) -> dict[str, Any]:
    """What `_identity` says of a stage, as its entry in dvc.lock has it."""
    deps = [{key: dep[key] for key in ("path", "hash", "md5")} for dep in entry["deps"]]
    return {"cmd": entry["cmd"], "deps": deps, "params": entry.get("params", {})}


def needed_stages(targets: list[str]) -> list[str]:
    """Names of the stages that `targets` need, themselves among them, in the order of the DAG."""
    with Repo() as repo:
        return [str(stage.name) for stage in _needed(repo, targets)]


def _needed(repo: Repo, targets: list[str]) -> Iterator[PipelineStage]:
    """The stages that targets need, in the order of the DAG, but for those that are run here."""
    graph = repo.index.graph
    stages = {stage.name: stage for stage in graph if isinstance(stage, PipelineStage)}
    needed = {stage for name in targets for stage in (stages[name], *nx.descendants(graph, stages[name]))}
    for stage in nx.topological_sort(graph.reverse()):
        if stage in needed and isinstance(stage, PipelineStage) and stage.name not in ("plan", "source"):
            yield stage


def _hashes_made_here(values: Values) -> Hashes:
    """Of the plan and of the source; without the source where it is not on this machine."""
    params = validate(values, "params.yaml")
    files = {PLAN / name: content for name, content in plan_files(params, SCRIPTS).items()}
    if (source := _source(params.data.model_dump_json())) is not None:
        files[SOURCE] = source
    return {path.as_posix(): hashlib.md5(content.encode()).hexdigest() for path, content in files.items()}


@cache
def _source(data: str) -> str | None:
    """What the stage `source` writes for such params of data, looked at once: a million files take their time.

    None where the source is not on this machine.
    """
    try:
        return json_text(fingerprint(DataParams.model_validate_json(data)))
    except PrologueError:
        return None


def _identity(stage: PipelineStage, values: Values, hashes: Hashes) -> dict[str, Any] | None:
    """Command, dependencies and params of a stage as dvc.lock has them; None where a dependency is not known yet."""
    deps = []
    params: dict[str, dict[str, Any]] = {}
    for dep in stage.deps:
        if isinstance(dep, ParamsDependency):
            params[dep.def_path] = {key: value_at(values, key) for key in dep.params}
    for template in read_yaml(Path("dvc.yaml"))["stages"][stage.name].get("deps", []):
        path = PARAM.sub(lambda found: str(value_at(values, found[1])), template)  # DVC has read params.yaml as it is
        md5 = hashes.get(path)
        if md5 is None:
            (dep,) = loads_from(stage, [path])
            md5 = str(dep.get_hash().value) if dep.exists else ""
        if not md5:
            return None
        deps.append({"path": path, "hash": "md5", "md5": md5})
    return {"cmd": stage.cmd, "deps": sorted(deps, key=lambda dep: dep["path"]), "params": params}


def _in_run_cache(repo: Repo, stage: PipelineStage, values: Values, hashes: Hashes) -> Hashes | None:
    """Hashes of the outputs of a stage's newest run with the inputs that it will have; None without one."""
    identity = _identity(stage, values, hashes)
    if identity is None:
        return None
    identity = {key: value for key, value in identity.items() if value}
    identity["outs"] = [out.def_path for out in sorted(stage.outs, key=lambda out: out.def_path)]
    key = dict_sha256(identity)
    folder = Path(repo.cache.legacy.path) / "runs" / key[:2] / key
    runs = sorted(folder.glob("*"), key=lambda run: run.stat().st_mtime)
    return {out["path"]: out["md5"] for out in read_yaml(runs[-1])["outs"]} if runs else None
