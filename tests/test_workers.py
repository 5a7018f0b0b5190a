"""The worker processes of data loaders: how they take signals, errors and the end of their parent."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from launches import Launch
from preloaded import Preloaded
from waiting import wait_until

from prologue.core.errors import PrologueError
from prologue.data.images import ImageShards
from prologue.data.loader import view_batches

LOADING = """
import multiprocessing, os, signal, sys, time
from pathlib import Path

from prologue.data.images import ImageShards
from prologue.data.loader import view_batches

batches = view_batches(ImageShards(Path(sys.argv[1]), "train"), 16, "center", range(40), 1)
next(batches)
"""


def run(preloaded: Preloaded, folder: Path, shards: Path, code: str) -> Launch:
    """A process that has loaded one image of 40, and goes on with `code`."""
    script = folder / "loading.py"
    script.write_text(LOADING + code)
    return Launch(preloaded, folder, script, shards, env={"PROLOGUE_WORKERS": "1"})


def test_a_signal_to_all_processes_of_a_launch_ends_no_loading(
    preloaded: Preloaded, shards: Path, tmp_path: Path
) -> None:
    code = """
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
    os.killpg(0, number)
print(len(list(batches)), "more")
print(len(list(view_batches(ImageShards(Path(sys.argv[1]), "val"), 16, "center", range(10), 1))), "of another loader")
"""
    output = run(preloaded, tmp_path, shards, code).finish()
    assert "39 more" in output
    assert "10 of another loader" in output


def test_an_error_ends_a_process_whose_workers_still_wait(shards: Path, tmp_path: Path) -> None:
    script = tmp_path / "loading.py"
    script.write_text(LOADING + "raise ValueError('what was wrong')")
    command, env = [sys.executable, str(script), str(shards)], os.environ | {"PROLOGUE_WORKERS": "1"}
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)
    assert "what was wrong" in ended.stderr
    assert ended.returncode == 1


def test_workers_end_with_a_parent_that_is_killed(preloaded: Preloaded, shards: Path, tmp_path: Path) -> None:
    code = "print('worker', multiprocessing.active_children()[0].pid, flush=True)\ntime.sleep(1000)"
    launch = run(preloaded, tmp_path, shards, code)
    launch.wait_while_running(lambda: launch.log.exists() and "worker" in launch.log.read_text())
    worker = Path("/proc") / launch.kill().split()[-1]
    wait_until(lambda: not worker.exists())


def test_a_damaged_image_is_told_in_words_by_a_worker_too(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROLOGUE_WORKERS", "1")
    shutil.copytree(shards, tmp_path / "shards")
    tar = next((tmp_path / "shards").rglob("*.tar"))
    damaged = ImageShards(tmp_path / "shards", tar.parent.name)
    tar.write_bytes(b"\xff" * tar.stat().st_size)
    with pytest.raises(PrologueError) as error:
        list(view_batches(damaged, 16, "center", range(len(damaged)), 4))
    assert str(error.value).startswith(str(tar))
    assert "Traceback" not in str(error.value)
