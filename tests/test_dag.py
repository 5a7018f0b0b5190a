"""The pipeline as DVC runs it: dependencies that are true, a whole run at toy size, and reruns of what changed only."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, TINY, write_image_folder
from import_closure import import_closure

DVC_YAML = yaml.safe_load((ROOT / "dvc.yaml").read_text())
STAGES = DVC_YAML["stages"]
CODE = ("stages", "src", "params.yaml", "dvc.yaml", "variants", ".dvc/config", ".dvcignore", ".gitignore")


@pytest.mark.parametrize("name", STAGES)
def test_code_deps_are_the_modules_that_a_stage_imports(name: str) -> None:
    listed = {dep for dep in STAGES[name]["deps"] if dep.endswith(".py")}
    assert sorted(listed) == sorted(import_closure(ROOT / "stages" / f"{name}.py", ROOT))


class Clone:
    """A copy of the project at toy size in a git repository of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in CODE:
            source, target = ROOT / name, folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        write_image_folder(folder / "photos", per_class=25)
        self.env = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(folder / "src"),
            "PROLOGUE_LAUNCH": "python",
            "OMP_NUM_THREADS": "1",
        }
        for command in ("init -q", "config user.email a@b.c", "config user.name a", "add -A", "commit -qm start"):
            subprocess.run(["git", *command.split()], cwd=folder, check=True)

    def change(self, overrides: dict[str, object]) -> None:
        """Change params.yaml in place."""
        path = self.folder / "params.yaml"
        values = yaml.safe_load(path.read_text())
        for key, value in overrides.items():
            section = values
            *parents, last = key.split(".")
            for parent in parents:
                section = section[parent]
            section[last] = value
        path.write_text(yaml.safe_dump(values))

    def repro(self) -> set[str]:
        """Run the pipeline; returns the stages that worked (neither unchanged nor restored from the cache)."""
        command = [sys.executable, "-m", "dvc", "repro"]
        done = subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return {line.split("'")[1] for line in done.stdout.splitlines() if line.startswith("Running stage")}


def test_a_users_folder_runs_through_the_whole_pipeline_and_reruns_only_what_changed(tmp_path: Path) -> None:
    clone = Clone(tmp_path / "clone")
    clone.change(TINY | {"data.source": "photos", "data.val_fraction": 0.2})
    assert clone.repro() == set(STAGES)
    for made in ("reports/index.html", "data/samples/cfg.npz", "reports/figures/samples/fixed_prologue.png"):
        assert (clone.folder / made).is_file()
    assert clone.repro() == set()

    clone.change({"sampling.visual_temperature": 0.9})
    assert clone.repro() == {"samples", "evaluate_generation", "report"}
    clone.change({"sampling.visual_temperature": 1.0})
    assert clone.repro() == set()  # from the run-cache

    clone.change({"prologue.tokens": 2})
    after_the_shards = {"tokenizer", "attach", "tokens", "ar", "samples", "probe", "report"}
    assert clone.repro() == after_the_shards | {"evaluate_reconstruction", "evaluate_generation"}


def test_a_killed_stage_leaves_no_output_behind(tmp_path: Path) -> None:
    clone = Clone(tmp_path / "clone")
    clone.change(TINY | {"data.source": "photos", "data.val_fraction": 0.2, "stage1.steps": 10**6})
    subprocess.run(["python", "stages/shards.py"], cwd=clone.folder, env=clone.env, check=True, timeout=60)
    training = subprocess.Popen(["python", "stages/tokenizer.py"], cwd=clone.folder, env=clone.env)
    try:
        while not list(clone.folder.glob(".work/tokenizer/*/step_*")):
            with pytest.raises(subprocess.TimeoutExpired):  # it must not end by itself
                training.wait(timeout=0.2)
    finally:
        training.kill()
        training.wait()
    assert not (clone.folder / "models" / "tokenizer").exists()
    assert not (clone.folder / "reports" / "metrics" / "tokenizer.json").exists()
