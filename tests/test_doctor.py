"""`prologue doctor`: what it finds on machines that lack something, and whether its exit status says so."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import ROOT

from prologue.cli import main as cli
from prologue.core.errors import PrologueError
from prologue.pipeline import doctor
from prologue.pipeline.doctor import Finding, examine


def findings(root: Path) -> dict[str, Finding]:
    return {finding.what: finding for finding in examine(root)}


def test_a_working_project_has_nothing_bad_and_advice_where_something_lacks() -> None:
    found = findings(ROOT)
    assert {name for name, finding in found.items() if finding.state == "bad"} <= {"DVC"}  # not on the PATH of a test
    assert found["weights of lite2"].state == "good"
    assert all(finding.advice for finding in found.values() if finding.state == "bad")
    assert found["weights of inception"].state in ("good", "note")
    assert (
        "torch-fidelity/releases" in found["weights of inception"].advice
        or found["weights of inception"].state == "good"
    )


def test_outside_a_project_the_commands_for_models_still_work(tmp_path: Path) -> None:
    assert findings(tmp_path)["project"].state == "note"
    assert "git" not in findings(tmp_path)


def test_what_stops_work_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "dvc.yaml", tmp_path)

    def missing(name: str) -> Path:
        raise PrologueError(f"the weights of {name} are missing")

    monkeypatch.setattr(doctor, "require", missing)
    monkeypatch.setattr(doctor, "library", lambda: None)
    found = findings(tmp_path)
    assert (found["git"].state, found["git"].found) == ("bad", "no repository")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # as in a container
    assert "safe.directory" in findings(tmp_path)["git"].advice
    assert found["weights of lite0"].state == "bad"
    assert found["weights of vgg16"].state == "note"
    assert found["C++ compiler"].state == "note"


def test_the_command_prints_json_and_ends_with_a_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["prologue", "doctor", "--json"])
    monkeypatch.setattr(doctor, "examine", lambda: [Finding("disk", "bad", "1 GB", "free some")])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    assert json.loads(capsys.readouterr().out) == [
        {"what": "disk", "state": "bad", "found": "1 GB", "advice": "free some"}
    ]
    monkeypatch.setattr(doctor, "examine", lambda: [Finding("disk", "good", "90 GB")])
    monkeypatch.setattr("sys.argv", ["prologue", "doctor"])
    cli.main()
    assert "90 GB" in capsys.readouterr().out


@pytest.mark.slow  # it loads all that it would check
def test_the_check_of_a_gpu_says_that_there_is_none() -> None:
    check = [sys.executable, str(ROOT / "benchmarks" / "gpu.py")]
    env = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(check, capture_output=True, text=True, env=env, timeout=120)
    assert ran.returncode == 1
    assert ran.stderr == "no GPU here: PyTorch finds no CUDA device. Nothing was checked and nothing written.\n"
