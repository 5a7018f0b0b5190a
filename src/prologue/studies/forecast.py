"""Which stages of an experiment DVC will find in its run-cache, told before anything runs."""

import json
from pathlib import Path
from typing import Any

import networkx as nx
import yaml
from dvc.dependency.param import ParamsDependency
from dvc.repo import Repo
from dvc.stage import PipelineStage
from dvc.utils import dict_sha256

Hashes = dict[str, str]  # path in the project -> MD5 of the file, or of the folder's listing


def forecast(values: dict[str, Any], targets: list[str]) -> dict[str, bool]:
    """For each stage that `targets` need, in the order of the DAG: whether its results are in the run-cache.

    values: what params.yaml will hold. A stage whose inputs are not known yet, because a stage before it has to run,
    counts as not cached: it may yet turn out to be, if that stage's results do not change.
    """
    with Repo() as repo:
        graph = repo.index.graph
        stages = {stage.name: stage for stage in graph if isinstance(stage, PipelineStage)}
        needed = {stage for name in targets for stage in (stages[name], *nx.descendants(graph, stages[name]))}
        hashes: Hashes = {}
        cached = {}
        for stage in nx.topological_sort(graph.reverse()):
            if stage in needed and isinstance(stage, PipelineStage):
                found = _find(repo, stage, values, hashes)
                cached[str(stage.name)] = found is not None
                hashes |= found or {out.def_path: "" for out in stage.outs}
        return cached


def _find(repo: Repo, stage: PipelineStage, values: dict[str, Any], hashes: Hashes) -> Hashes | None:
    """Hashes of the outputs of a stage's newest run with the inputs that it will have; None without one."""
    deps = []
    params: dict[str, dict[str, Any]] = {}
    for dep in stage.deps:
        if isinstance(dep, ParamsDependency):
            params[dep.def_path] = {key: _value(values, key) for key in dep.params}
            continue
        md5 = _hash(repo, dep.def_path, hashes)
        if md5 is None:
            md5 = str(dep.get_hash().value) if dep.exists else ""
        if not md5:
            return None
        deps.append({"path": dep.def_path, "hash": "md5", "md5": md5})
    identity: dict[str, Any] = {"cmd": stage.cmd, "deps": sorted(deps, key=lambda dep: dep["path"])}
    if params:
        identity["params"] = params
    identity["outs"] = [out.def_path for out in sorted(stage.outs, key=lambda out: out.def_path)]
    key = dict_sha256(identity)
    runs = sorted(
        (Path(repo.cache.legacy.path) / "runs" / key[:2] / key).glob("*"), key=lambda run: run.stat().st_mtime
    )
    return {out["path"]: out["md5"] for out in yaml.safe_load(runs[-1].read_text())["outs"]} if runs else None


def _hash(repo: Repo, path: str, hashes: Hashes) -> str | None:
    """Hash of a path that a stage makes, alone or in a folder: empty where it is not known; None for other paths."""
    if path in hashes:
        return hashes[path]
    for folder in (parent.as_posix() for parent in Path(path).parents):
        if folder in hashes:
            listing = hashes[folder]
            file = Path(repo.cache.local.path) / listing[:2] / listing[2:]
            if not listing or not file.is_file():
                return ""
            inside = Path(path).relative_to(folder).as_posix()
            return next((entry["md5"] for entry in json.loads(file.read_text()) if entry["relpath"] == inside), "")
    return None


def _value(values: dict[str, Any], key: str) -> Any:
    value: Any = values
    for part in key.split("."):
        value = value[part]
    return value
