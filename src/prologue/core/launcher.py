"""Starts a stage on this machine: `python -m prologue.core.launcher stages/STAGE.py`, the pipeline's default.

On a CPU that is one process on each of up to 4 shares of the cores, since two processes of one thread are faster than
one of two; on a GPU one process; and `accelerate launch` where `accelerate config` was run. It needs no torch.
"""

import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from math import gcd
from pathlib import Path
from types import FrameType

from prologue.core.errors import PrologueError
from prologue.core.params_file import load_params
from prologue.core.work import work_root

MOST_PROCESSES = 4  # more gain little: each brings its share of waiting for the others
MEMORY = 3 * 2**30  # bytes that a process should find free
GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # NVIDIA, AMD, either under Windows
GRACE = 10.0  # seconds that processes get to end by themselves after one has failed
SLOTS = "PROLOGUE_SLOTS"  # in the environment: so many jobs share the cores, each of which takes a slot


def main() -> int:
    """Start the script and its words; returns the exit status."""
    words = sys.argv[1:]
    if accelerate_config().is_file():
        command = ["-m", "accelerate.commands.launch", "--quiet", *words]
        os.execv(sys.executable, [sys.executable, *command])
    cores = own_slot(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else []
    processes = int(os.environ.get("PROLOGUE_PROCESSES") or most_processes(len(cores)))
    if processes == 1:
        os.execv(sys.executable, [sys.executable, *words])
    return run_processes(words, [cores[rank::processes] for rank in range(processes)])


def accelerate_config() -> Path:
    """Where `accelerate config` writes."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    return Path(os.environ.get("HF_HOME", cache)).expanduser() / "accelerate" / "default_config.yaml"


def most_at_once(cores: int) -> int:
    """How many processes cores and memory allow; 1 beside a GPU or off Linux."""
    if sys.platform != "linux" or any(map(os.path.exists, GPUS)):
        return 1
    return max(1, min(cores, _free_memory() // MEMORY))


def most_processes(cores: int) -> int:
    """The processes of one stage: as many as the machine allows, up to 4, that divide all batches."""
    most = min(most_at_once(cores), MOST_PROCESSES)
    try:
        params = load_params()
    except PrologueError:
        return 1  # the stage will say what is wrong
    batches = gcd(params.stage1.batch, params.ar.batch, params.probe.mae.batch)
    return max(count for count in range(1, most + 1) if batches % count == 0)


def _free_memory() -> int:
    """Bytes that processes could still take, on Linux."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return 1024 * next(int(words[1]) for words in lines if words[0] == "MemAvailable:")


def own_slot(cores: list[int]) -> list[int]:
    """The cores of this job where PROLOGUE_SLOTS jobs share them: those of the first free slot, to which it is pinned.

    The slot is free again when this process and what it becomes have ended. All cores without such jobs.
    """
    slots = min(int(os.environ.get(SLOTS) or 1), len(cores))
    if slots == 1:
        return cores
    folder = work_root() / "slots"
    folder.mkdir(parents=True, exist_ok=True)
    for slot in range(slots):
        lock = os.open(folder / str(slot), os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        os.set_inheritable(lock, True)  # outlives the exec of a single process
        os.sched_setaffinity(0, cores[slot::slots])
        return cores[slot::slots]
    return cores


def run_processes(words: Sequence[str], shares: Sequence[Sequence[int]]) -> int:
    """Run one process on each share of the cores to the end of all; returns the first exit status that is not 0.

    Ctrl-C and SIGTERM reach every process once. When one fails, the others get some seconds, then are ended.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    parent = os.getpid()
    running = []
    for rank, cores in enumerate(shares):
        environment = os.environ | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(len(shares)),
            "LOCAL_WORLD_SIZE": str(len(shares)),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "GLOO_SOCKET_IFNAME": "lo",
            "PROLOGUE_THREADS": os.environ.get("PROLOGUE_THREADS") or str(len(cores)),
        }
        start = partial(_begin, parent, cores)
        running.append(
            subprocess.Popen([sys.executable, *words], env=environment, start_new_session=True, preexec_fn=start)
        )

    def forward(number: int, frame: FrameType | None) -> None:
        for process in running:
            process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, forward)
    return _end_of_all(running)


def _begin(parent: int, cores: Sequence[int]) -> None:
    """In a new process: keep to its cores, and end when the launcher is killed."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)
    os.sched_setaffinity(0, cores)


def _end_of_all(running: list[subprocess.Popen[bytes]]) -> int:
    """Wait for all processes; returns the status of the first that failed, 128 + N where signal N ended it, else 0."""
    status, deadline = 0, float("inf")
    while None in [process.poll() for process in running]:
        failed = [(rank, process.returncode) for rank, process in enumerate(running) if process.returncode]
        if failed and not status:
            status, deadline = failed[0][1], time.monotonic() + GRACE
        if time.monotonic() > deadline:
            rank, deadline = failed[0][0], float("inf")
            print(f"process {rank} of {len(running)} ended with status {status}, so all are ended", file=sys.stderr)
            for process in running:
                process.kill()
        time.sleep(0.05)
    status = status or next((process.returncode for process in running if process.returncode), 0)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
