"""Which process of a launch this is, what of the machine it may use, and how it shows progress; needs no torch."""

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from prologue.core.errors import PrologueError

T = TypeVar("T")
LAUNCHED = {"PROLOGUE_LAUNCH", "RANK", "ACCELERATE_MIXED_PRECISION"}  # the user, torchrun, Accelerate for one process


def launch_as_configured() -> None:
    """Start this program again by `accelerate launch` where `accelerate config` was run.

    Not where a launcher has started it already, or `PROLOGUE_LAUNCH` names another.
    """
    if accelerate_config().is_file() and not LAUNCHED & os.environ.keys():
        os.execv(sys.executable, [sys.executable, "-m", "accelerate.commands.launch", "--quiet", *sys.argv])


def accelerate_config() -> Path:
    """Where `accelerate config` writes."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    return Path(os.environ.get("HF_HOME", cache)).expanduser() / "accelerate" / "default_config.yaml"


def count_from(variable: str, default: int, least: int = 1) -> int:
    """A whole number that the user set in the environment, `least` or more; the default where it is not set, or empty.

    Raises PrologueError for anything else.
    """
    text = os.environ.get(variable, "").strip()
    if not text:
        return default
    if not text.isdecimal() or int(text) < least:
        raise PrologueError(f"{variable}={text}: give a whole number from {least} on")
    return int(text)


def rank() -> int:
    """This process's number in the launch."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Processes of the launch, on all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this process is the launch's first."""
    return rank() == 0


def own_cores() -> int:
    """Cores of this machine for each of the launch's processes on it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def own_threads() -> int:
    """Threads that compute in this process: one per core of its own; `PROLOGUE_THREADS` overrides the number."""
    return count_from("PROLOGUE_THREADS", own_cores())


def progress(items: Iterable[T], label: str, unit: str, total: int | None = None, initial: int = 0) -> Iterator[T]:
    """Iterate with a progress bar (rate and ETA) on the main process; a line every 20 s where stderr is no terminal."""
    interval = 0.5 if os.isatty(2) else 20
    yield from tqdm(
        items, label, total, unit=unit, initial=initial, mininterval=interval, disable=not is_main_process()
    )
