"""Sharing out the cores of a CPU to jobs that run at once, such as rows of a study: each takes a slot of its own."""

import os
import sys
from pathlib import Path

from prologue.core.launch import accelerate_config, container_limit, count_from, own_cores
from prologue.core.work import try_lock, work_root

SLOTS = "PROLOGUE_SLOTS"  # in the environment: so many jobs share the cores
MEMORY = 3 * 2**30  # bytes that a job should find free
GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # NVIDIA, AMD, either under Windows


def most_jobs() -> int:
    """How many jobs run best at once: one per core that has memory enough.

    1 beside a GPU, off Linux, and where a launcher was configured that starts several processes by itself.
    """
    if sys.platform != "linux" or any(map(os.path.exists, GPUS)):
        return 1
    if "PROLOGUE_LAUNCH" in os.environ or accelerate_config().is_file():
        return 1
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    free = 1024 * next(int(words[1]) for words in lines if words[0] == "MemAvailable:")
    memory = container_limit("memory.max")
    jobs = [own_cores(), free // MEMORY, *([int(memory[0]) // MEMORY] if memory else [])]
    return max(1, min(jobs))


def take_slot() -> None:
    """Keep this process to its share of the cores where PROLOGUE_SLOTS jobs share them: those of the first free slot.

    Two threads on each of two cores are many times slower than one. The slot is free again when the process has ended.
    """
    slots = count_from(SLOTS, 1)
    if slots == 1 or not hasattr(os, "sched_setaffinity"):
        return
    cores, folder = sorted(os.sched_getaffinity(0)), work_root() / "slots"
    folder.mkdir(parents=True, exist_ok=True)
    for slot in range(min(slots, len(cores))):
        lock = os.open(folder / str(slot), os.O_CREAT | os.O_RDWR)
        if not try_lock(lock):
            os.close(lock)
            continue
        os.sched_setaffinity(0, cores[slot::slots])  # the lock stays open until the process ends
        return
    print(f"no free slot of {SLOTS}={slots}: this job shares the cores of others, which slows all", file=sys.stderr)
