"""What this machine has of what the pipeline uses: each finding with what to do about it."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from prologue.core.errors import PrologueError
from prologue.core.launch import own_cores, switch_from
from prologue.core.machine import cpu_name
from prologue.core.precision import faster_precision
from prologue.core.runtime import start_accelerator
from prologue.frozen.weights import WEIGHTS, require
from prologue.models.kernels import library

LEAST_PYTHON = (3, 11)
NEEDED_GB = 3  # of a default run: data, models and the cache of DVC
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


class Finding(NamedTuple):
    """Something that was looked at. `note` costs speed or an option, `bad` stops work."""

    what: str
    state: Literal["good", "note", "bad"]
    found: str
    advice: str = ""


def examine(root: Path = Path()) -> list[Finding]:
    """Everything that a run on this machine, in the project at `root`, uses."""
    weights = [_weights(name) for name in WEIGHTS]
    return [_python(), _torch(), _device(), _compiler(), _disk(root), *_project(root), *weights, _chromium()]


def _python() -> Finding:
    good = sys.version_info >= LEAST_PYTHON
    return Finding("Python", "good" if good else "bad", platform.python_version(), "" if good else "use 3.11 or newer")


def _torch() -> Finding:
    """Whether torch brings CUDA to a machine that has no use for it."""
    build = "CUDA " + torch.version.cuda if torch.version.cuda else "CPU build"
    wasted = torch.version.cuda and not torch.cuda.is_available()
    advice = f"no GPU is seen; where {CPU_INDEX} is reached, its CPU build is 4 GB smaller (README)" if wasted else ""
    return Finding("torch", "note" if wasted else "good", f"{torch.__version__}, {build}", advice)


def _device() -> Finding:
    if torch.cuda.is_available():
        return Finding("device", "good", f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}")
    accelerator = start_accelerator()
    if accelerator.device.type != "cpu":
        return Finding("device", "good", accelerator.device.type)
    precision = faster_precision(accelerator)
    advice = "" if precision == "bf16" else "trainings take half as long where a CPU has units for bf16"
    return Finding("device", "good", f"{cpu_name()}, {own_cores()} cores, {precision}", advice)


def _compiler() -> Finding:
    if library() is not None:
        return Finding("C++ compiler", "good", "the CPU kernels are compiled")
    if not switch_from("PROLOGUE_KERNELS", default=True):
        return Finding(
            "C++ compiler", "note", "no CPU kernels", "PROLOGUE_KERNELS switches them off: unset it to use them"
        )
    return Finding(
        "C++ compiler", "note", "no CPU kernels", "install g++ or clang: a CPU trains twice as fast with them"
    )


def _disk(root: Path) -> Finding:
    free = shutil.disk_usage(root).free / 1e9
    enough = free >= NEEDED_GB
    advice = "" if enough else f"free some: a default run takes {NEEDED_GB} GB"
    return Finding("free disk", "good" if enough else "bad", f"{free:.0f} GB", advice)


def _project(root: Path) -> list[Finding]:
    """Git and DVC where there is a project; the commands for models need neither."""
    if not (root / "dvc.yaml").is_file():
        text = "commands for models work anywhere; for the pipeline, go to a clone"
        return [Finding("project", "note", "no dvc.yaml here", text)]
    findings = [_git(root)]
    dvc = _output(sys.executable, "-m", "dvc", "--version")
    if dvc is None:
        return [*findings, Finding("DVC", "bad", "does not start", "run `make venv`")]
    on_path = shutil.which("dvc") is not None
    advice = "" if on_path else "run `source .venv/bin/activate`, so that stages find their `python`"
    findings.append(Finding("DVC", "good" if on_path else "bad", dvc.strip(), advice))
    made = (root / "models" / "ar").is_dir()
    return [*findings, Finding("models", "good" if made else "note", "trained" if made else "none yet", _train(made))]


def _git(root: Path) -> Finding:
    """Whether git, which DVC needs for experiments, is there and reads the project's repository."""
    if shutil.which("git") is None:
        return Finding("git", "bad", "not installed", "install git: DVC needs it for experiments")
    command, plain = ["git", "-C", str(root), "status", "--porcelain"], os.environ | {"LC_ALL": "C"}
    status = subprocess.run(command, capture_output=True, text=True, env=plain)
    if "not a git repository" in status.stderr:
        return Finding("git", "bad", "no repository", "run `git init`, or clone: DVC needs git for experiments")
    if status.returncode:
        return Finding("git", "bad", "does not read the repository", " ".join(status.stderr.split()))
    changed = len(status.stdout.splitlines())
    return Finding("git", "good", f"{changed} changed files" if changed else "clean")


def _train(made: bool) -> str:
    return "" if made else "run `dvc repro`; until then commands use the small model that ships"


def _weights(name: str) -> Finding:
    """Weights that a package ships are needed; others are an option."""
    try:
        return Finding(f"weights of {name}", "good", require(name).name)
    except PrologueError as error:
        return Finding(
            f"weights of {name}", "bad" if WEIGHTS[name].package else "note", "missing or damaged", str(error)
        )


def _chromium() -> Finding:
    found = shutil.which("chromium")
    if found:
        return Finding("chromium", "good", found)
    return Finding("chromium", "note", "not found", "only tests of pages use it: install Debian's package `chromium`")


def _output(*command: str) -> str | None:
    """What a command prints, or None where it fails or does not exist."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout
