"""Unfinished work that a later run goes on from: never that of another origin, and how two origins differ is said."""

import fcntl
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from prologue.core.code import code_digests
from prologue.core.dotted import effective
from prologue.core.errors import PrologueError
from prologue.core.files import read_json, remove, sha256, write_json
from prologue.core.launch import is_main_process
from prologue.core.project import project_folder

MADE_OF, SESSIONS = "made_of.json", "sessions.json"  # in a folder: its origin, and when runs worked in it
claimed: dict[Path, IO[str]] = {}  # folders of this process, and the files whose locks it holds till it ends


@dataclass(frozen=True)
class Origin:
    """All that can change a result: params by dotted key, hashes of input files, digests of code; each by name."""

    params: dict[str, Any]
    inputs: dict[str, str]
    code: dict[str, str]

    @property
    def key(self) -> str:
        """Short name of this origin and of no other."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def differences(self, other: "Origin") -> list[str]:
        """What this origin has otherwise than another, in words, a line each."""
        lines = []
        for kind, (own, others) in {
            "param": (self.params, other.params),
            "input": (self.inputs, other.inputs),
            "code": (self.code, other.code),
        }.items():
            for name in sorted(own.keys() | others.keys()):
                here, there = (json.dumps(side[name]) if name in side else "absent" for side in (own, others))
                if here != there:
                    lines.append(f"{kind} {name}" + (f": {there} there, {here} here" if kind == "param" else ""))
        return lines


def origin_of(params: dict[str, Any], inputs: list[Path], module: str) -> Origin:
    """The origin of what a module (its __file__) makes of params, nested or not, and of files."""
    hashes = {path.as_posix(): sha256(path) for path in inputs}
    return Origin(effective(json.loads(json.dumps(params, default=str))), hashes, code_digests(Path(module)))


def work_root() -> Path:
    """Folder of checkpoints, and of what else outlives a run: .work of the project, or `PROLOGUE_WORK`."""
    return project_folder() / os.environ.get("PROLOGUE_WORK", ".work")


def open_work(folder: Path, origin: Origin) -> None:
    """Make a folder of unfinished work hold that of one origin: of another, what it holds is removed.

    Raises PrologueError where a file says what it is of and cannot be read.
    """
    known = read_origin(folder)
    if known is None and (folder / MADE_OF).is_file():
        raise PrologueError(f"{folder / MADE_OF} cannot be read; `rm -r {folder}` to start anew")
    if known != origin:
        remove(folder)
        folder.mkdir(parents=True)
        write_json(folder / MADE_OF, asdict(origin))


def note_session(folder: Path) -> None:
    """Note that a session begins, and the seconds of earlier ones, each to the last file that it wrote."""
    path, earlier = folder / SESSIONS, 0.0
    if path.is_file():
        note = read_json(path)
        written = (file.stat().st_mtime for file in folder.rglob("*") if file.is_file())
        earlier = note["earlier"] + max(0.0, max(written) - note["began"])
    write_json(path, {"began": time.time(), "earlier": round(earlier, 1)})


def earlier_sessions(folder: Path) -> dict[str, float]:
    """The metric `earlier_seconds` of a folder of unfinished work that this run goes on from; nothing of a new one."""
    seconds: float = read_json(folder / SESSIONS)["earlier"]
    return {"earlier_seconds": seconds} if seconds else {}


def read_origin(folder: Path) -> Origin | None:
    """The origin of a folder of unfinished work; None where it tells none that can be read."""
    try:
        return Origin(**read_json(folder / MADE_OF))
    except (OSError, ValueError, TypeError):
        return None


def claim(folder: Path) -> None:
    """Wait until no other launch works in a folder, and keep others out until `release`, or until this process ends."""
    if folder.resolve() not in claimed:  # two experiments at once may share a tokenizer
        file = _lock_file(folder)
        if not try_lock(file.fileno()):
            print(f"another run works in {folder}; waiting until it has ended", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        claimed[folder.resolve()] = file


def release(folder: Path) -> None:
    """Let others work in a claimed folder."""
    claimed.pop(folder.resolve()).close()


def is_claimed(folder: Path) -> bool:
    """Whether a launch works in a folder."""
    with _lock_file(folder) as file:
        return not try_lock(file.fileno())


def try_lock(descriptor: int) -> bool:
    """Lock an open file of the work directory until it is closed; whether nobody else holds its lock.

    Raises PrologueError where the file system has no locks, as some of clusters: two runs could work in one folder.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise PrologueError(
            f"files in {work_root()} cannot be locked ({error.strerror}): set PROLOGUE_WORK to a folder that all "
            "processes see on a file system with locks, or have this one mounted with them (Lustre: -o flock)"
        ) from None
    return True


def _lock_file(folder: Path) -> IO[str]:
    """The file beside a folder whose lock is held by who works in it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder.with_suffix(".lock").open("w")


def close_work(folder: Path, output: Path) -> None:
    """Put a folder whose work is finished in its place."""
    remove(output)
    folder.rename(output)
    for note in (MADE_OF, SESSIONS):  # last: a run that is killed before finds its work again
        remove(output / note)


@contextmanager
def building(output: Path, origin: Origin, wait: Callable[[], None]) -> Iterator[Path]:
    """Yield a folder beside `output` that all processes write to; it takes `output`'s place when all have finished.

    A run of the same origin finds what a killed one had written. `wait` waits for all processes of the launch.
    """
    folder = output.with_name(f".{output.name}.tmp")
    wait()
    if is_main_process():
        open_work(folder, origin)
        note_session(folder)
    wait()
    yield folder
    wait()
    if is_main_process():
        close_work(folder, output)
    wait()
