"""Sharing out the cores of a CPU to jobs that run at once, such as rows of a study: each takes a slot of its own."""

import fcntl
import os
import sys
from pathlib import Path

from prologue.core.work import work_root

SLOTS = "PROLOGUE_SLOTS"  # in the environment: so many jobs share the cores
MEMORY = 3 * 2**30  # bytes that a job should find free
GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # NVIDIA, AMD, either under Windows


def most_jobs() -> int:
    """How many jobs run best at once: one per core that has memory enough; 1 beside a GPU or off Linux."""
    if sys.platform != "linux" or any(map(os.path.exists, GPUS)):
        return 1
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    free = 1024 * next(int(words[1]) for words in lines if words[0] == "MemAvailable:")
    return max(1, min(len(os.sched_getaffinity(0)), free // MEMORY))


def take_slot() -> None:
    """Keep this process to its share of the cores where PROLOGUE_SLOTS jobs share them: those of the first free slot.

    Two threads on each of two cores are many times slower than one. The slot is free again when the process has ended.
    """
    slots = int(os.environ.get(SLOTS) or 1)
    if slots == 1 or not hasattr(os, "sched_setaffinity"):
        return
    cores, folder = sorted(os.sched_getaffinity(0)), work_root() / "slots"
    folder.mkdir(parents=True, exist_ok=True)
    for slot in range(min(slots, len(cores))):
        lock = os.open(folder / str(slot), os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        os.sched_setaffinity(0, cores[slot::slots])  # the lock stays open until the process ends
        return
