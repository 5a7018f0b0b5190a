"""Rows of a study as DVC experiments: which are done, queueing the others, following them to their end."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from dvc.repo import Repo

from prologue.core.errors import PrologueError
from prologue.core.files import parse_yaml
from prologue.core.slots import SLOTS
from prologue.core.variants import experiment_flags, override
from prologue.measures.registry import STAGES
from prologue.studies.definition import StudyRow
from prologue.studies.forecast import is_current

POLL = 5.0  # seconds between two looks at the queue
PATIENCE = 4  # looks at a queue that too few work on, before workers are started again
ENDED = ("Success", "Failed")
STAGE_ERROR = re.compile(rf"^(?:{'|'.join(('plan', 'source', *STAGES))})(?:, process \d+)?: .+$", re.MULTILINE)
EXCEPTION = re.compile(r"^[\w.]*(?:Error|Exception|Interrupt)\b.*$", re.MULTILINE)


def done_commit(row: StudyRow, stages: list[str]) -> str | None:
    """Commit of the row's newest experiment whose `stages` are what today's params and code would make; or None.

    Which commit it was run on does not matter: what changed since then may change none of its results.
    """
    newest_first = ("for-each-ref", "--sort=-creatordate", "--format=%(objectname) %(refname)", "refs/exps")
    for commit, reference in (line.split() for line in git(*newest_first).splitlines()):
        if reference.endswith(f"/{row.name}"):
            lock = parse_yaml(git("show", f"{commit}:dvc.lock"), f"{commit}:dvc.lock")
            if is_current(lock, override(row.overrides), stages):
                return commit
    return None


def run_rows(rows: list[StudyRow], stages: list[str], jobs: int, save: Callable[[StudyRow], object]) -> None:
    """Run rows, `jobs` at a time, each up to `stages`, and `save` each that is done; returns when none is left.

    Rows that fail do not stop the others. Training goes on from the checkpoints of an earlier try: all experiments
    share the work directory of this project.

    Raises:
        PrologueError: stopped by Ctrl-C. What runs saves a checkpoint first.
    """
    missing = {row.name: row for row in rows}
    try:
        running, existing = _clear(missing), _experiments()
        for name, row in missing.items():
            if name not in running:
                if name in existing:
                    _dvc("exp", "remove", name)  # of other params or code
                _dvc("exp", "run", "--queue", "--name", name, *experiment_flags(row.overrides), *stages)
        _follow(missing, min(jobs, len(missing)), save)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # impatience must not leave workers behind
        _stop(missing)
        raise PrologueError("stopped; run the same command to go on") from None


def _clear(rows: Mapping[str, StudyRow]) -> set[str]:
    """Take what an earlier try left of these rows out of DVC's queue; returns those that still run."""
    states = {name: state for name, state in queue_states().items() if name in rows}
    running = {name for name, state in states.items() if state == "Running"}
    if running and not _workers_answer():  # they died with their workers, which DVC does not notice by itself
        for name in running:
            _dvc("queue", "kill", name)
        running = set()
    over = sorted(states.keys() - running)
    if over:
        _dvc("queue", "remove", *over)
    return running


def _workers_answer() -> bool:
    """Whether any worker of DVC's queue is alive; on a busy machine it may take a while to say so."""
    with Repo() as repo:
        for patience in reversed(range(PATIENCE)):
            if repo.experiments.celery_queue.worker_status():
                return True
            if patience:
                time.sleep(POLL)
    return False


def _stop(rows: Mapping[str, StudyRow]) -> None:
    """End the workers; nothing of these rows stays in DVC's queue but what has ended by itself."""
    states = queue_states()
    unfinished = {name: row for name, row in rows.items() if states.get(name) not in ENDED}
    for name in unfinished:  # first, or a worker would take the next one
        if states.get(name) == "Queued":
            with suppress(PrologueError):  # a worker has just taken it, and is stopped below
                _dvc("queue", "remove", name)
    _dvc("queue", "stop", "--kill")
    for _ in range(PATIENCE):  # training saves a checkpoint before it ends
        states = queue_states()
        if not any(states.get(name) == "Running" for name in unfinished):
            break
        time.sleep(POLL)
    _clear(unfinished)


def queue_states() -> dict[str, str]:
    """State of the newest experiment of each name in DVC's queue: Queued, Running, Failed or Success.

    One that was killed may be told as Failed beside the one that went on from it.
    """
    with Repo() as repo:
        entries = repo.experiments.celery_queue.status()
    return {entry["name"]: entry["status"] for entry in sorted(entries, key=lambda entry: entry["timestamp"])}


def failure(row: StudyRow) -> str:
    """Why the row's last try, which failed, did so: one line of its log, or of what DVC says where it has none.

    That is what a stage said, else the exception that ended it, else the last line.
    """
    try:
        logged = _dvc("queue", "logs", row.name)
    except PrologueError as error:  # it failed before a stage began
        logged = str(error)
    lines = [line for line in re.split(r"[\r\n]+", logged) if line.strip() and "%|" not in line]  # no progress bars
    text = "\n".join(lines)
    errors: list[str] = STAGE_ERROR.findall(text) or EXCEPTION.findall(text) or lines
    return errors[-1] if errors else "no reason was logged"


def _follow(rows: Mapping[str, StudyRow], jobs: int, save: Callable[[StudyRow], object]) -> None:
    """Start workers, print what becomes of the rows until all have ended, well or not, and save those that are done.

    Between waiting and running an experiment is in no list of DVC's; one that stays in none is lost, and given up.
    """
    shown: dict[str, str] = {}
    idle = PATIENCE
    while True:
        states = {name: state for name, state in queue_states().items() if name in rows}
        for name, state in states.items():
            if shown.get(name) != state:
                row = rows[name]
                print(f"{time.strftime('%H:%M:%S')}  {row.label}, seed {row.seed}: {state.lower()}", flush=True)
                if state == "Success":
                    save(row)
        shown = states
        if all(states.get(name) in ENDED for name in rows):
            return
        running, queued = (list(states.values()).count(state) for state in ("Running", "Queued"))
        idle = idle + 1 if running < min(jobs, max(1, running + queued)) else 0  # a worker of DVC's may end early
        if idle > PATIENCE:
            if not running and not queued:
                return
            _dvc("queue", "start", "--jobs", str(jobs), environment={SLOTS: str(jobs)})
            idle = 0
        time.sleep(POLL)


def _experiments() -> list[str]:
    """Names of the experiments on the current commit."""
    return _dvc("exp", "list", "--name-only").split()


def _dvc(*words: str, environment: Mapping[str, str] | None = None) -> str:
    """Output of a DVC command. Raises PrologueError with what it said where it fails."""
    python = Path(sys.executable)
    own = os.environ | {
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": "src",  # an experiment runs in a folder of its own, with its own copy of the code
    }
    own.pop("PROLOGUE_RESUME", None)  # it is of one run, and a study has many
    with tempfile.TemporaryFile("w+") as output:  # a pipe would stay open as long as the workers that DVC starts
        ran = subprocess.run(
            [python, "-m", "dvc", *words],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**own, **(environment or {})},
            check=False,
            start_new_session=True,  # Ctrl-C is for this process alone
        )
        output.seek(0)
        said = output.read()
    if ran.returncode:
        raise PrologueError(f"dvc {' '.join(words)}: {said.strip()}")
    return said


def git(*words: str) -> str:
    """Output of a git command that cannot fail here."""
    return subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout
