"""Two nodes through `dvc repro`, started as Slurm would start them, and torchrun under a time limit."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from clone import Clone
from launches import TRAINING
from safetensors.torch import load_file
from tiny import TINY
from waiting import wait_until

SRUN = """
import subprocess, sys

nodes = [
    subprocess.Popen([sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1",
        "--rdzv_id=job", "--rdzv_backend=c10d", "--rdzv_endpoint=127.0.0.1:PORT", "--local_addr=127.0.0.1",
        *sys.argv[1:]])
    for _ in range(2)
]
sys.exit(max(node.wait() for node in nodes))
"""


@pytest.mark.slow
def test_two_nodes_run_the_stages_that_one_dvc_starts(tmp_path: Path) -> None:
    clone = Clone(tmp_path / "clone")
    clone.change(TINY | {"data.source": "photos", "data.val_fraction": 0.2})
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    (tmp_path / "srun.py").write_text(SRUN.replace("PORT", port))
    clone.env["PROLOGUE_LAUNCH"] = f"{sys.executable} {tmp_path / 'srun.py'}"
    assert {"tokenizer", "tokens", "ar"} <= clone.stages_run("repro", "ar")
    for stage in ("shards", "tokenizer", "tokens", "ar"):
        assert clone.metrics(stage)["processes"] == 2
    assert clone.metrics("ar")["steps"] == TINY["ar.steps"]
    clone.env["PROLOGUE_LAUNCH"] = "python"
    assert clone.stages_run("repro", "ar") == set(), "how many processes ran is no reason to run again"


@pytest.mark.slow
def test_sigterm_at_torchrun_saves_the_step_and_the_same_command_goes_on(shards: Path, tmp_path: Path) -> None:
    """As Slurm sends it ahead of the time limit; it reaches the workers that read the images too."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(TRAINING)]
    words = [str(shards), "tokenizer", "stage1.steps=40", "stage1.checkpoint_every=1000"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PROLOGUE_WORKERS": "1"}
    for name in ("alone", "stopped"):
        (tmp_path / name).mkdir()
    subprocess.run([*torchrun, *words], cwd=tmp_path / "alone", env=env, check=True, timeout=300)
    job = subprocess.Popen([*torchrun, *words], cwd=tmp_path / "stopped", env=env)
    curve = ".work/tokenizer/*/curves/plots/metrics/train/l1.tsv"
    wait_until(lambda: job.poll() is not None or bool(list((tmp_path / "stopped").glob(curve))))
    assert job.poll() is None
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=120) != 0
    (saved,) = (tmp_path / "stopped").glob(".work/tokenizer/*/step_*")
    assert 0 < int(saved.name[5:]) < 40
    subprocess.run([*torchrun, *words], cwd=tmp_path / "stopped", env=env, check=True, timeout=300)
    alone, stopped = (load_file(tmp_path / name / "tokenizer/model.safetensors") for name in ("alone", "stopped"))
    assert all((alone[name] == stopped[name]).all() for name in alone)
