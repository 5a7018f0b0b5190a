"""A benchmark's sitting: notices when something else used the machine meanwhile, and then writes nothing."""

import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from prologue.core.files import write_json
from prologue.core.machine import cpu_name

OUTPUT = Path("reports/benchmarks")
DISTURBED = 0.05  # share of one core that others may use
TICKS = os.sysconf("SC_CLK_TCK")


class Sitting:
    """`with Sitting() as sitting: ...`, then `sitting.write(name, result)`."""

    def __enter__(self) -> "Sitting":
        self.began, self.before, self.stolen = time.monotonic(), _seconds_of_others(), _stolen_seconds()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        wall = time.monotonic() - self.began
        used = {name: seconds - self.before.get(name, 0) for name, seconds in _seconds_of_others().items()}
        shares = {name: seconds / wall for name, seconds in used.items()}
        shares["the host (stolen time)"] = (_stolen_seconds() - self.stolen) / wall
        self.disturbers = {name: round(share, 2) for name, share in shares.items() if share > DISTURBED}

    def write(self, name: str, result: dict[str, Any]) -> None:
        """Print the result and write reports/benchmarks/NAME.json, with the CPU's name; refuses if disturbed."""
        result = {"cpu": cpu_name(), "cores": os.cpu_count(), "torch": torch.__version__, **result}
        print(result)
        if self.disturbers:
            sys.exit(f"disturbed, so not written: cores used by others {self.disturbers}")
        write_json(OUTPUT / f"{name}.json", result)


def _seconds_of_others() -> dict[str, float]:
    """Processor seconds of all processes but those of this launch and what started it, by their command."""
    parents: dict[int, int] = {}
    seconds: dict[int, float] = {}
    names: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            head, _, rest = (folder / "stat").read_text().rpartition(")")
        except OSError:  # it has ended
            continue
        fields, process = rest.split(), int(folder.name)
        parents[process], names[process] = int(fields[1]), head.partition("(")[2]
        seconds[process] = (int(fields[11]) + int(fields[12])) / TICKS
    root = os.getppid() if "RANK" in os.environ else os.getpid()  # torchrun, or this process
    own = {root}
    while True:
        family = {child for child, parent in parents.items() if parent in own} | own
        if family == own:
            break
        own = family
    ancestor = root
    while ancestor in parents:
        own.add(ancestor)
        ancestor = parents[ancestor]
    return {f"{names[process]} ({process})": used for process, used in seconds.items() if process not in own}


def _stolen_seconds() -> float:
    """Processor seconds of this machine that its host gave to others."""
    return int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[8]) / TICKS
