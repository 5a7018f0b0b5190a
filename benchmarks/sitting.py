"""A benchmark's sitting: notices when something else used the machine meanwhile, and then writes nothing."""

import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

from prologue.core.files import write_json
from prologue.core.machine import cpu_name

OUTPUT = Path("reports/benchmarks")
DISTURBED = 0.05  # share of one core that others may use
TICKS = os.sysconf("SC_CLK_TCK")


class Sitting:
    """`with Sitting() as sitting: ...`, then `sitting.write(name, result)`."""

    def __enter__(self) -> "Sitting":
        self.began, self.busy, (self.own, self.others) = time.monotonic(), _busy_seconds(), _seconds_of_processes()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        wall = time.monotonic() - self.began
        own, others = _seconds_of_processes()
        self.used_by_others = (_busy_seconds() - self.busy - (own - self.own)) / wall
        used = {name: (seconds - self.others.get(name, 0)) / wall for name, seconds in others.items()}
        self.disturbers = {name: round(share, 2) for name, share in used.items() if share > DISTURBED}

    def write(self, name: str, result: dict[str, Any]) -> None:
        """Print the result and write reports/benchmarks/NAME.json, with the CPU's name; refuses if disturbed."""
        result = {"cpu": cpu_name(), "cores": os.cpu_count(), "torch": version("torch"), **result}
        print(result)
        if self.used_by_others > DISTURBED:
            names = self.disturbers or "processes that have ended, or the host of this machine"
            sys.exit(f"disturbed, so not written: others used {self.used_by_others:.2f} cores: {names}")
        write_json(OUTPUT / f"{name}.json", result)


def seconds_of(work: Callable[[], object]) -> float:
    """Wall time of a call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _busy_seconds() -> float:
    """Seconds that cores of this machine did not idle, those that its host gave to others among them."""
    user, nice, system, _, _, _, _, stolen = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + stolen) / TICKS


def _seconds_of_processes() -> tuple[float, dict[str, float]]:
    """Processor seconds of this launch with its ended children, and of every process beside it and what started it."""
    parents: dict[int, int] = {}
    seconds: dict[int, tuple[float, float]] = {}
    names: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            head, _, rest = (folder / "stat").read_text().rpartition(")")
        except OSError:  # it has ended
            continue
        fields, process = rest.split(), int(folder.name)
        parents[process], names[process] = int(fields[1]), head.partition("(")[2]
        alone, ended = sum(map(int, fields[11:13])) / TICKS, sum(map(int, fields[13:15])) / TICKS
        seconds[process] = (alone, alone + ended)
    root = os.getppid() if "RANK" in os.environ else os.getpid()  # torchrun, or this process
    own = {root}
    while family := {child for child, parent in parents.items() if parent in own} - own:
        own |= family
    above, ancestor = set(), root
    while ancestor in parents:
        above.add(ancestor)
        ancestor = parents[ancestor]
    others = {f"{names[process]} ({process})": seconds[process][0] for process in seconds.keys() - own - above}
    return sum(seconds[process][1] for process in own if process in seconds), others
