"""How a stage starts: on processes that share out the cores, in a slot of its own, or as `accelerate config` says."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prologue.core import launcher

SCRIPT = """
import os, signal, sys, time
rank = os.environ.get("RANK", "-")
signal.signal(signal.SIGTERM, lambda *_: (os.write(1, f"asked {rank}\\n".encode()), sys.exit(3)))
os.write(1, f"rank {rank} of {os.environ.get('WORLD_SIZE')} {sorted(os.sched_getaffinity(0))}\\n".encode())
if "fail" in sys.argv and rank == "1":
    sys.exit(4)
if "wait" in sys.argv or "fail" in sys.argv:
    open(f"waits{rank}", "w").close()
    time.sleep(60)
"""
CONFIG = """
compute_environment: LOCAL_MACHINE
distributed_type: 'NO'
dynamo_config: {dynamo_backend: EAGER}
mixed_precision: 'no'
num_machines: 1
num_processes: 1
use_cpu: true
"""
CORES = sorted(os.sched_getaffinity(0))
pytestmark = pytest.mark.skipif(len(CORES) < 2, reason="one core")


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith(("ACCELERATE", "PROLOGUE"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def start(script: Path, *words: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "prologue.core.launcher", str(script), *words],
        env=os.environ | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def started(*paths: Path) -> None:
    deadline = time.monotonic() + 30
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_processes_share_out_the_cores(script: Path) -> None:
    process = start(script, PROLOGUE_PROCESSES="2")
    said, _ = process.communicate()
    expected = [f"rank {rank} of 2 {CORES[rank::2]}" for rank in range(2)]
    assert sorted(said.splitlines()) == expected
    assert process.returncode == 0


def test_a_request_to_stop_reaches_each_process_once(script: Path) -> None:
    process = start(script, "wait", PROLOGUE_PROCESSES="2")
    started(Path("waits0"), Path("waits1"))
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate()
    assert sorted(line for line in said.splitlines() if line.startswith("asked")) == ["asked 0", "asked 1"]
    assert process.returncode == 3


def test_the_others_end_when_one_fails(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "GRACE", 0.2)
    began = time.monotonic()
    assert launcher.run_processes([str(script), "fail"], [CORES[0::2], CORES[1::2]]) == 4
    assert time.monotonic() - began < 30


def test_none_outlives_a_launcher_that_is_killed(script: Path) -> None:
    process = start(script, "wait", PROLOGUE_PROCESSES="2")
    started(Path("waits0"), Path("waits1"))
    process.kill()
    said, _ = process.communicate()  # ends when the last process has closed the pipe
    assert "asked" not in said


def test_jobs_take_slots_of_their_own(script: Path) -> None:
    first = start(script, "wait", PROLOGUE_SLOTS="2")
    started(Path("waits-"))
    second = start(script, PROLOGUE_SLOTS="2")
    assert second.communicate()[0] == f"rank - of None {CORES[1::2]}\n"
    first.terminate()
    assert f"rank - of None {CORES[0::2]}\n" in first.communicate()[0]


def test_processes_divide_all_batches_and_leave_a_gpu_alone(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "_free_memory", lambda: 100 * 2**30)
    text = (Path(__file__).parents[1] / "params.yaml").read_text()
    Path("params.yaml").write_text(text)
    assert launcher.most_processes(64) == 4
    Path("params.yaml").write_text(text.replace("batch: 32", "batch: 30"))
    assert launcher.most_processes(64) == 2
    monkeypatch.setattr(launcher, "GPUS", ("/dev/null",))
    assert launcher.most_processes(64) == 1


@pytest.mark.slow  # accelerate takes its time to start
def test_a_stage_starts_as_accelerate_was_configured(script: Path) -> None:
    script.write_text('import os; print(os.environ.get("ACCELERATE_DYNAMO_BACKEND", "plain"))')
    assert start(script, PROLOGUE_PROCESSES="1").communicate()[0].strip() == "plain"
    Path("accelerate").mkdir()
    Path("accelerate/default_config.yaml").write_text(CONFIG)
    assert start(script).communicate()[0].splitlines()[-1] == "EAGER"
