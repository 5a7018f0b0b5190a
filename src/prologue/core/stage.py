"""What every stage script shares: params first, plain errors, wall time and memory beside the stage's metrics."""

import errno
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NoReturn

from safetensors import SafetensorError

from prologue.core.errors import PrologueError
from prologue.core.files import write_json
from prologue.core.launch import (
    is_main_process,
    launch_as_configured,
    print_any_name,
    rank,
    refuse_strangers,
    world_size,
)
from prologue.core.machine import cpu_name, gpu_used, peak_memory_mb
from prologue.core.params import Params
from prologue.core.params_file import load_params
from prologue.core.slots import take_slot

DISK_FULL = "os error 28"  # as safetensors words it
LESS_MEMORY = (
    "PROLOGUE_MICRO_BATCH=N (samples at once of a step) and PROLOGUE_RECOMPUTE=1 take less in trainings, where "
    "`prologue describe --gpus N` tells how much; tokens.batch and evaluation.batch are those of other stages"
)
METRICS = Path("reports/metrics")
Work = Callable[[Params], dict[str, Any]]


def run_stage(name: str, work: Work, processes: Literal["configured", "one"] = "configured") -> None:
    """Validate params, run `work`, write the metrics it returns, if any, to reports/metrics/NAME.json.

    It runs on the processes that were `configured` for this machine, or on `one`. Errors meant for the user are printed
    without a traceback; the exit status is then 1.
    """
    started = time.perf_counter()
    print_any_name()
    try:
        refuse_strangers()
        if processes == "configured":
            launch_as_configured()
        if world_size() == 1:
            take_slot()
        metrics = work(load_params())
    except PrologueError as error:
        _end(name, str(error))
    except KeyboardInterrupt:
        _end(name, "stopped; run the same command to go on")
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which a stage without torch does not load
            raise
        _end(name, f"{str(error).splitlines()[0]} {LESS_MEMORY}")
    except (OSError, SafetensorError) as error:
        if not (DISK_FULL in str(error) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)):
            raise
        _end(name, f"the disk is full ({error}); what is finished is kept: make room and run the same command")
    if metrics and is_main_process():
        metrics["seconds"] = round(metrics.get("earlier_seconds", 0) + time.perf_counter() - started, 1)
        metrics["peak_memory_mb"] = peak_memory_mb()
        metrics |= {"processes": world_size(), "cpu": cpu_name()} | gpu_used()
        write_json(METRICS / f"{name}.json", metrics)


def _end(name: str, why: str) -> NoReturn:
    """End the process with one line for the user."""
    where = "" if is_main_process() else f", process {rank()}"  # it may be the only one that met the error
    print(f"\n{name}{where}: {why}", file=sys.stderr)
    sys.exit(1)
