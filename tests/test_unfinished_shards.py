"""Shards by several workers and ranks, killed, out of disk, gone on with: the bytes of one uninterrupted run."""

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest
from calls import record_calls
from image_files import UNSPLIT, class_files, encoded, noise, params, tree, write_folder
from launches import run_on_two
from preloaded import Preloaded
from waiting import wait_until

from prologue.core.errors import PrologueError
from prologue.core.files import read_json, write_json
from prologue.data import shards as shards_module
from prologue.data.listing import Listing
from prologue.data.shards import write_shards


def test_the_number_of_workers_changes_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_folder(UNSPLIT | {"cat/broken.png": b"x"}, tmp_path / "s")
    for workers in ("1", "3"):
        monkeypatch.setenv("PROLOGUE_WORKERS", workers)
        write_shards(params(source), 0, tmp_path / workers)
    assert tree(tmp_path / "1") == tree(tmp_path / "3")


def test_a_killed_run_goes_on_with_the_missing_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_folder(UNSPLIT, tmp_path / "s")
    write_shards(params(source), 0, tmp_path / "whole")
    with monkeypatch.context() as patch:
        record_calls(patch, shards_module, "write_shard", dies_after=3)
        with pytest.raises(KeyboardInterrupt):
            write_shards(params(source), 0, tmp_path / "o")
    assert not (tmp_path / "o").exists()
    sessions = tmp_path / ".o.tmp" / "sessions.json"
    note = read_json(sessions)
    assert note["earlier"] == 0
    write_json(sessions, {"began": note["began"] - 100, "earlier": 7.0})  # a second session, of 100 seconds
    written = record_calls(monkeypatch, shards_module, "write_shard")
    assert 107 <= write_shards(params(source), 0, tmp_path / "o")["earlier_seconds"] < 150
    assert len(written) == 8 - 3  # ten images of each split, three to a shard
    assert tree(tmp_path / "o") == tree(tmp_path / "whole")


def test_what_was_written_of_another_source_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_folder(UNSPLIT, tmp_path / "s")
    with monkeypatch.context() as patch:
        record_calls(patch, shards_module, "_finish", dies_after=0)
        with pytest.raises(KeyboardInterrupt):
            write_shards(params(source), 0, tmp_path / "o")
    (source / "cat" / "0.png").write_bytes(encoded(noise(seed=77)))
    write_shards(params(source), 0, tmp_path / "o")
    write_shards(params(source), 0, tmp_path / "fresh")
    assert tree(tmp_path / "o") == tree(tmp_path / "fresh")


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_kill_9_of_a_run_with_workers_ends_them_and_loses_no_finished_shard(tmp_path: Path) -> None:
    source = write_folder(class_files(600, "cat", "dog"), tmp_path / "s")
    write_shards(params(source), 0, tmp_path / "whole")
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nsys.path.insert(0, sys.argv[1])\nfrom image_files import params\n"
        "from prologue.data.shards import write_shards\n"
        "if __name__ == '__main__':\n    write_shards(params(Path(sys.argv[2])), 0, Path(sys.argv[3]))\n"
    )
    command = [sys.executable, *map(str, (script, Path(__file__).parent, source, tmp_path / "o"))]
    environment = {**os.environ, "PROLOGUE_WORKERS": "2"}
    run = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    wait_until(lambda: len(list(tmp_path.glob(".o.tmp/*/*.json"))) >= 5 or run.poll() is not None)
    run.kill()
    run.wait()
    wait_until(lambda: not group_lives(run.pid))  # its workers end by themselves
    finished = len(list(tmp_path.glob(".o.tmp/*/*.json")))
    assert 5 <= finished < 400
    subprocess.run(command, env=environment, check=True, timeout=120)
    assert tree(tmp_path / "o") == tree(tmp_path / "whole")


def test_two_ranks_write_what_one_does(tmp_path: Path, preloaded: Preloaded) -> None:
    source = write_folder(UNSPLIT | {"cat/broken.png": b"x"}, tmp_path / "s")
    code = (
        "from pathlib import Path\nfrom image_files import params\nfrom prologue.data.shards import write_shards\n"
        "write_shards(params(Path(sys.argv[1])), 0, Path(sys.argv[2]))\n"
    )
    run_on_two(preloaded, tmp_path, code, source, tmp_path / "two")
    write_shards(params(source), 0, tmp_path / "one")
    assert tree(tmp_path / "two") == tree(tmp_path / "one")


def refuse_locks(*_: object) -> None:
    raise sqlite3.OperationalError("database is locked")


def test_a_full_disk_is_said_before_and_while_writing_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_folder(UNSPLIT, tmp_path / "s")
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
        with pytest.raises(PrologueError, match=r"the shards need 0\.0 GB more"):
            write_shards(params(source), 0, tmp_path / "o")

    with monkeypatch.context() as patch:
        patch.setattr(Listing, "__init__", refuse_locks)
        with pytest.raises(PrologueError, match="the list of files cannot be kept there: database is locked"):
            write_shards(params(source), 0, tmp_path / "o")

    def full(tar: BinaryIO, name: str, content: bytes) -> int:
        if len(jobs) > 1 and name.endswith("cls"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return add(tar, name, content)

    add = shards_module._add
    with monkeypatch.context() as patch:
        jobs = record_calls(patch, shards_module, "write_shard")
        patch.setattr(shards_module, "_add", full)
        with pytest.raises(OSError, match="No space left on device"):
            write_shards(params(source), 0, tmp_path / "o")
    assert not (tmp_path / "o").exists()
    left = sorted(path.relative_to(tmp_path / ".o.tmp").as_posix() for path in (tmp_path / ".o.tmp").glob("*/*"))
    assert left == ["train/000000.index.npy", "train/000000.json", "train/000000.tar"]
    write_shards(params(source), 0, tmp_path / "o")
    assert tree(tmp_path / "o").keys() >= {"train/000000.tar", "val/000003.tar"}
