"""Where a stage runs: processes, device, threads and worker processes are the machine's business, never a param."""

import importlib.util
import os
import random
import resource
import shutil
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from prologue.core.errors import PrologueError
from prologue.core.launch import count_from, own_cores, own_threads, switch_from
from prologue.core.seeds import derive_seed

T = TypeVar("T")
DIVIDING = {  # what Accelerate's launcher sets
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "parallelism within a model",
}
WITHOUT_FLOAT64 = ("mps",)  # kinds of device
OPEN_FILES = 65536  # a common soft limit is 1,024, and ImageNet-21k has 13,000 shards of 1,000 images
PATIENCE = timedelta(hours=2)  # with what one process does alone, as listing and hashing ImageNet from a slow disk
COMPILING_PAYS = 2000  # steps: compiling takes about a minute and saves a third of each (docs/findings.md, on a GPU)


def start_accelerator() -> Accelerator:
    """Join the processes of this launch (accelerate launch, torchrun or plain python) and set the CPU threads.

    On a CPU every process takes as many cores as every other: launchers leave theirs one thread.

    Raises:
        PrologueError: the launch divides models over processes, as FSDP and DeepSpeed do.
    """
    _refuse_divided_models()
    _allow_open_files()
    patient = InitProcessGroupKwargs(timeout=PATIENCE)  # NCCL's own 10 minutes would end the others
    cpu = not torch.accelerator.is_available()
    accelerator = Accelerator(cpu=cpu, mixed_precision="no", kwargs_handlers=[patient])  # params say which precision
    if accelerator.device.type == "cpu":
        torch.set_num_threads(own_threads())
    torch.backends.cudnn.allow_tf32 = False  # it moves features of convolutions in fp32, and flips ids of VQGANs
    return accelerator


def _refuse_divided_models() -> None:
    for variable, name in DIVIDING.items():
        if os.environ.get(variable, "false").lower() in ("true", "1"):
            raise PrologueError(
                f"this launch is configured for {name}, under which training here is not tested: run `accelerate "
                "config` again and choose multi-GPU without it. Where memory is short, PROLOGUE_RECOMPUTE=1 and "
                "PROLOGUE_MICRO_BATCH=N take less of it (docs/clusters.md)"
            )


def _allow_open_files() -> None:
    """Let this process open so many files, where the system does: each shard that is read stays open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError):  # Apple's systems have a limit that is told nowhere here
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def in_float64(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float64, on its own device or, as Apple's has no such numbers, on the CPU."""
    return (tensor.cpu() if tensor.device.type in WITHOUT_FLOAT64 else tensor).double()


def loader_workers() -> int:
    """Worker processes of a data loader: none where the CPU runs the model; `PROLOGUE_WORKERS` overrides."""
    return count_from("PROLOGUE_WORKERS", min(8, own_cores()) if torch.accelerator.is_available() else 0, least=0)


def compiles_by_itself(device: torch.device, steps: int) -> bool:
    """Whether blocks of the AR model are compiled for a training of so many steps, where no launch compiles all.

    On CUDA they are, where Triton and the C compiler that it needs are there. PROLOGUE_COMPILE=off prevents it.
    """
    unwanted, compiles_all = not switch_from("PROLOGUE_COMPILE", default=True), _compiler() != "no"
    if device.type != "cuda" or steps < COMPILING_PAYS or unwanted or compiles_all:
        return False
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return importlib.util.find_spec("triton") is not None and compiler is not None


def _compiler() -> str:
    return os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()


def compiled(function: Callable[..., T]) -> Callable[..., T]:
    """The function compiled where this launch is configured to compile (`accelerate config`), else as it is."""
    backend = _compiler()
    if backend == "no":
        return function
    import torch._dynamo  # takes seconds to load

    torch._dynamo.config.recompile_limit = 256  # blocks share their code, each with weights of its own
    result: Callable[..., T] = torch.compile(function, backend=backend, dynamic=False)
    return result


def never_compiled(function: Callable[..., T]) -> Callable[..., T]:
    """The function kept out of what is compiled around it; asking torch for that takes seconds, where nothing is."""
    return function if _compiler() == "no" else torch.compiler.disable(function)


def seed_everything(*parts: int) -> None:
    """Seed Python, NumPy and torch from a tuple such as (seed, step)."""
    seed = derive_seed(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
