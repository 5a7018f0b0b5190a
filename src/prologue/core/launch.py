"""Which process of a launch this is, what of the machine it may use, and how it shows progress; needs no torch."""

import os
import sys
from collections.abc import Iterable, Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from prologue.core.errors import PrologueError

T = TypeVar("T")
TASKS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")  # as srun and mpirun tell how many they started
CONTROL_GROUP = Path("/sys/fs/cgroup")  # of a container, seen from inside
SWITCHED = {"on": True, "1": True, "off": False, "0": False}
LAUNCHED = {"PROLOGUE_LAUNCH", "RANK", "ACCELERATE_MIXED_PRECISION"}  # the user, torchrun, Accelerate for one process


def launch_as_configured() -> None:
    """Start this program again by `accelerate launch` where `accelerate config` was run.

    Not where a launcher has started it already, or `PROLOGUE_LAUNCH` names another.
    """
    if accelerate_config().is_file() and not LAUNCHED & os.environ.keys():
        os.execv(sys.executable, [sys.executable, "-m", "accelerate.commands.launch", "--quiet", *sys.argv])


def refuse_strangers() -> None:
    """Raise PrologueError where a launcher started several processes that do not know of each other.

    Each would do all of the work, in the same files. torchrun and Accelerate tell their processes by RANK.
    """
    for variable in TASKS:
        if os.environ.get(variable, "1") != "1" and "RANK" not in os.environ:
            raise PrologueError(
                f"{variable}={os.environ[variable]} processes were started without telling them of each other: start "
                f"them by torchrun (docs/clusters.md), or `unset {variable}` where this is the only one"
            )


def print_any_name() -> None:
    """Let stdout print what its encoding lacks, as names of files that are no UTF-8, by escapes instead of an error."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


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


def switch_from(variable: str, default: bool) -> bool:
    """Whether the user switched something on or off in the environment; the default where it is not set, or empty.

    Raises PrologueError for what is neither.
    """
    text = os.environ.get(variable, "").strip().lower()
    if text and text not in SWITCHED:
        raise PrologueError(f"{variable}={text}: give one of {', '.join(SWITCHED)}")
    return SWITCHED[text] if text else default


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
    """Cores of this machine, or of its share that a container may use, for each of the launch's processes on it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = container_limit("cpu.max")
    if quota:
        cores = min(cores, int(quota[0]) // int(quota[1]))
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def container_limit(name: str) -> list[str]:
    """The words of a limit of this process's control group; none where it has no limit."""
    path = CONTROL_GROUP / name
    words = path.read_text().split() if path.is_file() else ["max"]
    return [] if words[0] == "max" else words


def own_threads() -> int:
    """Threads that compute in this process: one per core of its own; `PROLOGUE_THREADS` overrides the number."""
    return count_from("PROLOGUE_THREADS", own_cores())


def progress(items: Iterable[T], label: str, unit: str, total: int | None = None, initial: int = 0) -> Iterator[T]:
    """Iterate with a progress bar (rate and ETA) on the main process; a line every 20 s where stderr is no terminal."""
    interval = 0.5 if os.isatty(2) else 20
    yield from tqdm(
        items, label, total, unit=unit, initial=initial, mininterval=interval, disable=not is_main_process()
    )
