"""Rows of a study as DVC experiments: which are done, queueing the others, following them to their end."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import yaml
from dvc.repo import Repo

from prologue.errors import PrologueError
from prologue.studies.definition import StudyRow
from prologue.variants import experiment_flags, override

CODE = ("src", "stages", "dvc.yaml")  # an experiment of other code is not this row
POLL = 2.0  # seconds between two looks at the queue
PATIENCE = 10  # looks at a queue that nobody works on, before workers are started again
STAGE_ERROR = re.compile(r"^(\w+): (.+)$", re.MULTILINE)


def done_commit(row: StudyRow) -> str | None:
    """Commit of the row's experiment on the current commit, with today's params and code; None without one."""
    head = git("rev-parse", "HEAD").strip()
    listed = git("for-each-ref", "--format=%(objectname)", f"refs/exps/{head[:2]}/{head[2:]}/{row.name}").split()
    if not listed:
        return None
    same_params = yaml.safe_load(git("show", f"{listed[0]}:params.yaml")) == override(row.overrides)
    same_code = subprocess.run(["git", "diff", "--quiet", listed[0], "--", *CODE], check=False).returncode == 0
    return listed[0] if same_params and same_code else None


def run_rows(rows: list[StudyRow], stages: list[str], jobs: int) -> None:
    """Run the rows that are not done, `jobs` at a time, each up to `stages`; returns when none is left.

    Rows that fail do not stop the others. Training goes on from the checkpoints of an earlier try: all experiments
    share the work directory of this project.

    Raises:
        PrologueError: stopped by Ctrl-C. What runs saves a checkpoint first.
    """
    missing = {row.name: row for row in rows if done_commit(row) is None}
    states = queue_states()
    stale = [name for name in missing if name in states and states[name] != "Running"]
    if stale:
        _dvc("queue", "remove", *stale)
    for name, row in missing.items():
        if states.get(name) != "Running":
            if name in _experiments():
                _dvc("exp", "remove", name)  # of other params or code
            _dvc("exp", "run", "--queue", "--name", name, *experiment_flags(row.overrides), *stages)
    try:
        _follow(missing, jobs)
    except KeyboardInterrupt:
        _dvc("queue", "stop", "--kill")
        raise PrologueError("stopped; run the same command to go on") from None


def queue_states() -> dict[str, str]:
    """State of every experiment in DVC's queue by its name: Queued, Running, Failed or Success."""
    with Repo() as repo:
        return {entry["name"]: entry["status"] for entry in reversed(repo.experiments.celery_queue.status())}


def failure(row: StudyRow) -> str | None:
    """Why the row's last try failed, in one line; None where it did not."""
    if queue_states().get(row.name) != "Failed":
        return None
    logged = _dvc("queue", "logs", row.name)
    errors = [f"{stage}: {message}" for stage, message in STAGE_ERROR.findall(logged) if stage.islower()]
    lines = [line for line in logged.splitlines() if line.strip()]
    return errors[-1] if errors else lines[-1] if lines else "no reason was logged"


def _follow(rows: Mapping[str, StudyRow], jobs: int) -> None:
    """Start workers and print what becomes of the rows until none is waiting or running."""
    shown: dict[str, str] = {}
    idle = PATIENCE
    while True:
        states = {name: state for name, state in queue_states().items() if name in rows}
        for name, state in states.items():
            if shown.get(name) != state:
                print(f"{time.strftime('%H:%M:%S')}  {rows[name].label}: {state.lower()}", flush=True)
        shown = states
        if not {"Queued", "Running"} & set(states.values()):
            return
        idle = idle + 1 if "Running" not in states.values() else 0
        if idle > PATIENCE:
            _dvc("queue", "start", "--jobs", str(jobs))
            idle = 0
        time.sleep(POLL)


def _experiments() -> list[str]:
    """Names of the experiments on the current commit."""
    return _dvc("exp", "list", "--name-only").split()


def _dvc(*words: str) -> str:
    """Output of a DVC command. Raises PrologueError with what it said where it fails."""
    python = Path(sys.executable)
    environment = {
        **os.environ,
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": "src",  # an experiment runs in a folder of its own, with its own copy of the code
        "PROLOGUE_WORK": os.environ.get("PROLOGUE_WORK", str(Path(".work").resolve())),
    }
    ran = subprocess.run([python, "-m", "dvc", *words], capture_output=True, text=True, env=environment, check=False)
    if ran.returncode:
        raise PrologueError(f"dvc {' '.join(words)}: {(ran.stderr or ran.stdout).strip()}")
    return ran.stdout


def git(*words: str) -> str:
    """Output of a git command that cannot fail here."""
    return subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout
