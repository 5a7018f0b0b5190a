"""Where a stage runs: processes, device, threads and worker processes are the machine's business, never a param."""

import os
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm

from prologue.files import remove
from prologue.launch import is_main_process

T = TypeVar("T")


def start_accelerator() -> Accelerator:
    """Join the processes of this launch (accelerate launch, torchrun or plain python) and set the CPU threads.

    On a CPU every process takes its share of the cores: `accelerate launch` leaves a lone CPU process one thread.
    `PROLOGUE_THREADS` overrides the number.
    """
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    if accelerator.device.type == "cpu":
        local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        threads = os.environ.get("PROLOGUE_THREADS") or max(1, available_cores() // local_processes)
        torch.set_num_threads(int(threads))
    return accelerator


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def loader_workers() -> int:
    """Worker processes of a data loader: none where the CPU runs the model; `PROLOGUE_WORKERS` overrides."""
    if "PROLOGUE_WORKERS" in os.environ:
        return int(os.environ["PROLOGUE_WORKERS"])
    return min(8, available_cores() // 4) if torch.cuda.is_available() else 0


def seed_everything(*parts: int) -> None:
    """Seed Python, NumPy and torch from a tuple such as (seed, step, rank)."""
    seed = derive_seed(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def derive_seed(*parts: int) -> int:
    """One 63-bit seed from several integers; different tuples give unrelated seeds."""
    return int(np.random.SeedSequence((len(parts), *parts)).generate_state(1, np.uint64)[0] >> 1)


def progress(items: Iterable[T], label: str, unit: str, total: int | None = None, initial: int = 0) -> Iterator[T]:
    """Iterate with a progress bar (rate and ETA) on the main process; a line every 20 s where stderr is no terminal."""
    interval = 0.5 if os.isatty(2) else 20
    yield from tqdm(
        items, label, total, unit=unit, initial=initial, mininterval=interval, disable=not is_main_process()
    )


@contextmanager
def replacing_together(folder: Path, accelerator: Accelerator) -> Iterator[Path]:
    """Yield one temporary folder that all processes write to; it takes `folder`'s place when all have finished."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    if accelerator.is_main_process:
        remove(temporary)
        temporary.mkdir(parents=True)
    accelerator.wait_for_everyone()
    yield temporary
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        remove(folder)
        temporary.rename(folder)
    accelerator.wait_for_everyone()
