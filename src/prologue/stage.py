"""What every stage script shares: params first, plain errors, wall time and memory beside the stage's metrics."""

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prologue.errors import PrologueError
from prologue.files import write_json
from prologue.launch import is_main_process
from prologue.params import Params, load_params

METRICS = Path("reports/metrics")


def run_stage(name: str, work: Callable[[Params], dict[str, Any]]) -> None:
    """Validate params, run `work`, write the metrics it returns to reports/metrics/NAME.json.

    Errors meant for the user are printed without a traceback; the exit status is then 1.
    """
    started = time.perf_counter()
    try:
        metrics = work(load_params())
    except PrologueError as error:
        if is_main_process():
            print(f"\n{name}: {error}", file=sys.stderr)
        sys.exit(1)
    if is_main_process():
        metrics["seconds"] = round(time.perf_counter() - started, 1)
        metrics["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        write_json(METRICS / f"{name}.json", metrics)
