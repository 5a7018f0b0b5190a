"""Scripts as processes of their own that can be killed and interrupted, alone or as two ranks, and what they leave."""

import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import torch
from preloaded import Preloaded, Started
from safetensors.torch import load_file
from tiny import ROOT
from waiting import wait_until

TRAINING = ROOT / "tests" / "training_run.py"


class Launch:
    """A script on one or more processes, in a folder of its own."""

    def __init__(
        self,
        preloaded: Preloaded,
        folder: Path,
        script: Path,
        *words: object,
        processes: int = 1,
        env: dict[str, str] | None = None,
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.log = folder, folder / "log.txt"
        self.log.unlink(missing_ok=True)
        ranks = rank_environments(processes) if processes > 1 else [{}]
        self.processes: list[Started] = [
            preloaded.start(script, *map(str, words), cwd=folder, output=self.log, env=rank | (env or {}))
            for rank in ranks
        ]

    def checkpoints(self, stage: str) -> list[Path]:
        """Complete checkpoints of a stage, oldest first."""
        return sorted(self.folder.glob(f".work/{stage}/*/step_*"))

    def wait_for_checkpoint(self, stage: str, after: int) -> None:
        """Wait until there is a checkpoint of a later step than `after`, while the script runs."""
        self.wait_while_running(lambda: any(int(path.name[5:]) > after for path in self.checkpoints(stage)))

    def wait_for_steps(self, steps: int) -> None:
        """Wait until so many steps are in the training curves, while the script runs."""
        curve = "curves/plots/metrics/train/l1.tsv"
        self.wait_while_running(
            lambda: any(len(path.read_text().splitlines()) > steps for path in self.folder.glob(f".work/*/*/{curve}"))
        )

    def wait_while_running(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds; fail where the script ends first."""
        wait_until(lambda: self.processes[0].poll() is not None or condition())
        assert self.processes[0].poll() is None, self.output()

    def kill(self) -> str:
        """End it as `kill -9` does; what it printed."""
        for process in self.processes:
            process.send_signal(signal.SIGKILL)
        return self.output()

    def output(self) -> str:
        """Wait for the end; what it printed."""
        for process in self.processes:
            process.wait(timeout=240)
        return self.log.read_text(errors="replace")

    def finish(self) -> str:
        """Wait for the end, which must be a good one; what it printed."""
        output = self.output()
        assert [process.status for process in self.processes] == [0] * len(self.processes), output
        return output


def rank_environments(processes: int) -> list[dict[str, str]]:
    """What torchrun tells each process of a launch on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    every = [shared | {"RANK": rank, "LOCAL_RANK": rank} for rank in range(processes)]
    return [{name: str(value) for name, value in variables.items()} for variables in every]


def words(values: dict[str, object]) -> list[str]:
    """Overrides of the tiny params as `training_run.py` takes them."""
    return [f"{key.replace('__', '.')}={value}" for key, value in values.items()]


def assert_same(one: Path, two: Path) -> None:
    """Two model folders hold the same bits."""
    expected, got = (load_file(folder / "model.safetensors") for folder in (one, two))
    assert expected.keys() == got.keys()
    for name in expected:
        assert torch.equal(expected[name], got[name]), name


def assert_same_curves(one: Path, two: Path) -> None:
    """Two folders of curves hold the same points."""
    names = sorted(path.relative_to(one) for path in one.rglob("*.tsv"))
    assert names == sorted(path.relative_to(two) for path in two.rglob("*.tsv"))
    for name in names:
        assert (one / name).read_text() == (two / name).read_text(), name


def run_on_two(preloaded: Preloaded, folder: Path, code: str, *words: object) -> None:
    """Run Python code as two processes of a launch; `words` are its arguments. It must end well."""
    script = folder / "two.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(ROOT / 'tests')!r})\n{code}")
    launch = Launch(preloaded, folder, script, *words, processes=2)
    try:
        launch.finish()
    except subprocess.TimeoutExpired:
        raise AssertionError(launch.kill()) from None
