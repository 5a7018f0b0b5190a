"""What a revision holds: params, metrics and the first samples, read by DVC from git and the cache or a remote."""

import json
import math
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException, NotDvcRepoError
from dvc.repo import Repo
from dvc.scm import RevError, resolve_rev
from dvc_data.index import DataIndexDirError
from numpy.typing import NDArray

from prologue.core.conventions import SAMPLING_RUNS
from prologue.core.dotted import flat
from prologue.core.errors import PrologueError
from prologue.core.files import parse_yaml
from prologue.core.npz import DAMAGED, opened_array
from prologue.measures.recorded import parse_metrics
from prologue.measures.registry import Metrics

WORKSPACE = "workspace"
NOT_AT_HAND = (OSError, DvcException, DataIndexDirError)  # what DVC raises for outputs neither here nor on a remote


@dataclass(frozen=True)
class Samples:
    """The first samples of a run: uint8 (N, H, W, 3) and the names of their classes."""

    images: NDArray[np.uint8]
    classes: list[str]


@dataclass(frozen=True)
class Revision:
    """An experiment, commit, branch or the workspace, as far as a comparison needs it."""

    name: str
    commit: str  # empty for the workspace
    params: dict[str, Any]  # by dotted key
    metrics: Metrics
    samples: dict[str, Samples] = field(default_factory=dict)  # by run
    missing: str = ""  # why there are no samples


def read_revision(name: str, images: int) -> Revision:
    """Read what `name` stands for in the project of the current folder.

    Args:
        name: anything that DVC or git resolves, or 'workspace'.
        images: how many samples of each run.

    Raises:
        PrologueError: there is no such revision, or it holds no params or no metrics.
    """
    commit = "" if name == WORKSPACE else _resolve(name)
    files = DVCFileSystem(rev=commit or None)
    try:
        params = parse_yaml(files.read_text("params.yaml"), f"params.yaml of {name}")
    except FileNotFoundError:
        params = None
    if not isinstance(params, dict):
        raise PrologueError(f"{name} has no params.yaml: is it a revision of this project?")
    metrics = parse_metrics(
        {_stem(path): files.read_text(path) for path in sorted(files.glob("reports/metrics/*.json"))}
    )
    if not metrics:
        raise PrologueError(f"{name} has no reports/metrics/*.json: run `dvc repro` there first")
    try:
        samples, missing = _read_samples(files, images), ""
    except NOT_AT_HAND as error:
        samples, missing = {}, str(error)
    except (*DAMAGED, IndexError):
        samples, missing = {}, "its samples are damaged, or of other classes than its tokens: a run is not finished"
    return Revision(name, commit[:10], flat(params), metrics, samples, missing)


def _resolve(name: str) -> str:
    """Commit of a revision. Raises PrologueError."""
    try:
        with Repo() as repo:
            return str(resolve_rev(repo.scm, name))
    except NotDvcRepoError:
        raise PrologueError("this is no DVC project: run from the root of the project") from None
    except RevError:
        advice = "give an experiment (`dvc exp list`), a commit, branch or tag"
        raise PrologueError(f"there is no revision {name}: {advice}") from None


def _stem(path: str) -> str:
    return path.rsplit("/", 1)[-1].removesuffix(".json")


def _read_samples(files: DVCFileSystem, count: int) -> dict[str, Samples]:
    """The first samples of each run. Raises one of NOT_AT_HAND where they cannot be had."""
    names = json.loads(files.read_text("data/tokens/manifest.json"))["classes"]
    samples = {}
    for run in SAMPLING_RUNS:
        with files.open(f"data/samples/{run}.npz", "rb") as file:
            images, labels = (_first(file, key, count) for key in ("arr_0", "arr_1"))
        samples[run] = Samples(images, [str(names[label]) for label in labels])
    return samples


def _first(file: IO[bytes], key: str, count: int) -> NDArray[Any]:
    """The first rows of an array of an npz."""
    with opened_array(file, key) as (member, header):
        shape = (min(count, header.shape[0]), *header.shape[1:])
        return np.frombuffer(member.read(math.prod(shape) * header.dtype.itemsize), header.dtype).reshape(shape)
