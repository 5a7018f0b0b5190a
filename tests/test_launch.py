"""How a stage starts: as one process, in a slot of its own beside other jobs, or as `accelerate config` says."""

import errno
import fcntl
import importlib.util
import os
import resource
import shutil
import subprocess
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
import torch
from launches import Launch, run_on_two
from preloaded import Preloaded
from safetensors import SafetensorError
from tiny import ROOT

from prologue.core import launch, slots, stage
from prologue.core.errors import PrologueError
from prologue.core.files import read_json
from prologue.core.runtime import compiles_by_itself, loader_workers, start_accelerator
from prologue.core.stage import run_stage
from prologue.core.work import claim, work_root

ONE_FAILS = """
from prologue.core.errors import PrologueError
from prologue.core.launch import rank
from prologue.core.stage import run_stage

def work(params):
    if rank() == 1:
        raise PrologueError("its disk is full")
    return {}

run_stage("shards", work)
"""
SCRIPT = """
import os, sys
from prologue.core.launch import launch_as_configured, own_cores
from prologue.core.slots import take_slot
launch_as_configured()
take_slot()
print(os.environ.get("ACCELERATE_DYNAMO_BACKEND", "plain"), sorted(os.sched_getaffinity(0)), own_cores(), flush=True)
sys.stdin.read()
"""
PATIENT = """
from datetime import timedelta
from torch import distributed
from prologue.core.runtime import start_accelerator

accelerator = start_accelerator()
accelerator.wait_for_everyone()  # who ends first takes the others' connections along
assert distributed.group.WORLD._get_backend(accelerator.device).options._timeout >= timedelta(hours=1)
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


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith(("ACCELERATE", "PROLOGUE"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def start(script: Path, **env: str) -> subprocess.Popen[str]:
    """Start the script, which says where it runs and then waits for the end of its input."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen([sys.executable, script], env=os.environ | env, text=True, **pipes)  # type: ignore[call-overload]


@pytest.mark.skipif(len(CORES) < 2, reason="one core")
def test_jobs_share_out_the_cores(script: Path) -> None:
    jobs = []
    for _ in range(2):  # one after the other, so that the first takes the first slot
        jobs.append(start(script, PROLOGUE_SLOTS="2"))
        assert jobs[-1].stdout is not None
        shares = [CORES[slot::2] for slot in range(2)]
        share = shares[len(jobs) - 1]
        assert jobs[-1].stdout.readline() == f"plain {share} {len(share)}\n"
    jobs[0].communicate()
    third = start(script, PROLOGUE_SLOTS="2")
    assert third.communicate()[0] == f"plain {shares[0]} {len(shares[0])}\n"  # its slot is free again
    jobs[1].communicate()


def test_without_jobs_all_cores_serve(script: Path) -> None:
    assert start(script).communicate()[0] == f"plain {CORES} {len(CORES)}\n"


def test_jobs_leave_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROLOGUE_LAUNCH", raising=False)
    assert 1 <= slots.most_jobs() <= len(CORES)
    monkeypatch.setattr(slots, "GPUS", ("/dev/null",))
    assert slots.most_jobs() == 1


def test_a_containers_share_of_the_cores_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "CONTROL_GROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    for limit, cores in (("max 100000", 64), ("250000 100000", 2), ("50000 100000", 1)):
        (tmp_path / "cpu.max").write_text(limit)
        assert launch.own_cores() == cores
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    (tmp_path / "cpu.max").write_text("800000 100000")
    assert launch.own_cores() == 2


def test_processes_that_do_not_know_of_each_other_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `srun python` starts them: each would be the only one, in the same files."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    monkeypatch.setattr(stage, "launch_as_configured", lambda: pytest.fail("they were launched"))
    with pytest.raises(SystemExit):
        run_stage("ar", lambda params: {})
    assert "SLURM_STEP_NUM_TASKS=2 processes were started without telling them of each other" in capsys.readouterr().err
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    run_stage("ar", lambda params: {}, "one")


def test_names_that_are_no_utf8_can_be_printed_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    stream = BytesIO()
    printed = TextIOWrapper(stream, "ascii", write_through=True)

    def work(_: object) -> dict[str, object]:
        print("caf\udce9, \u732b")
        return {}

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", printed)
        run_stage("shards", work, "one")
    assert stream.getvalue() == b"caf\\udce9, \\u732b\n"


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(PrologueError, match=r"cannot be locked \(No locks available\): set PROLOGUE_WORK"):
        claim(tmp_path / "work")


@pytest.mark.slow  # accelerate takes its time to start
def test_a_stage_starts_as_accelerate_was_configured(script: Path) -> None:
    Path("accelerate").mkdir()
    Path("accelerate/default_config.yaml").write_text(CONFIG)
    assert start(script).communicate()[0].startswith("EAGER ")


@pytest.mark.parametrize(
    ("variable", "name"), [("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")]
)
def test_launches_that_divide_models_are_refused(variable: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "false")
    start_accelerator()
    monkeypatch.setenv(variable, "true")
    with pytest.raises(PrologueError, match=f"configured for {name}.* PROLOGUE_RECOMPUTE=1 and PROLOGUE_MICRO_BATCH"):
        start_accelerator()


def test_a_long_training_of_the_ar_model_is_compiled_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setenv("CC", "gcc")
    monkeypatch.delenv("ACCELERATE_DYNAMO_BACKEND", raising=False)
    assert compiles_by_itself(gpu, 2000)
    assert not compiles_by_itself(gpu, 1000)
    assert not compiles_by_itself(cpu, 2000)
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "NO")  # as `accelerate launch` says where nothing was chosen
    assert compiles_by_itself(gpu, 2000)
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")  # all is compiled anyway
    assert not compiles_by_itself(gpu, 2000)
    monkeypatch.delenv("ACCELERATE_DYNAMO_BACKEND")
    monkeypatch.setenv("PROLOGUE_COMPILE", "off")
    assert not compiles_by_itself(gpu, 2000)
    monkeypatch.delenv("PROLOGUE_COMPILE")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not compiles_by_itself(gpu, 2000)


def test_a_resumed_stage_counts_the_seconds_of_all_its_sessions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    run_stage("ar", lambda params: {"earlier_seconds": 100.0}, "one")
    assert 100 <= read_json(tmp_path / "reports" / "metrics" / "ar.json")["seconds"] < 200


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PrologueError("no"), "ar: no"),
        (KeyboardInterrupt(), "ar: stopped; run the same command to go on"),
        (OSError(errno.ENOSPC, "No space left on device", "x.tar"), "ar: the disk is full ([Errno 28] No space left"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "x.tar"), "ar: the disk is full ([Errno 122] Disk quota exc"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "ar: the disk is full (I/O error"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB\n..."),
            "ar: CUDA out of memory. Tried 2 GiB PROLOGUE",
        ),
    ],
)
def test_a_stage_that_cannot_go_on_ends_with_a_line(
    error: BaseException, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(_: object) -> dict[str, object]:
        raise error

    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run_stage("ar", work, "one")
    assert ended.value.code == 1
    assert said in capsys.readouterr().err
    error = OSError(errno.EIO, "gone")
    with pytest.raises(OSError, match="gone"):
        run_stage("ar", work, "one")
    error = RuntimeError("a defect")
    with pytest.raises(RuntimeError, match="a defect"):
        run_stage("ar", work, "one")


@pytest.mark.parametrize("text", ["many", "-1", "1.5", "0"])
def test_numbers_of_the_environment_are_whole(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROLOGUE_THREADS", text)
    with pytest.raises(PrologueError, match=f"PROLOGUE_THREADS={text}: give a whole number from 1 on"):
        start_accelerator()
    monkeypatch.setenv("PROLOGUE_WORKERS", "0")
    assert loader_workers() == 0
    monkeypatch.setenv("PROLOGUE_WORKERS", "")
    loader_workers()


def test_many_shards_may_be_open() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    start_accelerator()
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= min(hard, 65536)


def test_work_of_an_experiment_in_a_copy_lies_in_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "tmp1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    for given, expected in ((None, ".work"), ("fast", "fast"), (str(tmp_path / "other"), "other")):
        if given:
            monkeypatch.setenv("PROLOGUE_WORK", given)
        assert work_root().resolve() == tmp_path / expected


def test_an_error_that_one_process_meets_is_told(tmp_path: Path, preloaded: Preloaded) -> None:
    script = tmp_path / "one_fails.py"
    script.write_text(ONE_FAILS)
    (tmp_path / "run").mkdir()
    shutil.copy(ROOT / "params.yaml", tmp_path / "run")
    launch = Launch(preloaded, tmp_path / "run", script, processes=2)
    assert "shards, process 1: its disk is full" in launch.output()
    assert [process.status for process in launch.processes] == [0, 1]


def test_others_wait_for_what_one_process_does_alone(tmp_path: Path, preloaded: Preloaded) -> None:
    """Longer than NCCL's 10 minutes, after which their launch would end."""
    run_on_two(preloaded, tmp_path, PATIENT)
