"""The pipeline as DVC runs it: dependencies that are true, a whole run at toy size, and reruns of what changed only."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, TINY, write_image_folder
from import_closure import import_closure
from safetensors.torch import load_file

from prologue.models.export import load_tokenizer

DVC_YAML = yaml.safe_load((ROOT / "dvc.yaml").read_text())
STAGES = DVC_YAML["stages"]
CODE = (
    *("stages", "src", "params.yaml", "dvc.yaml", "variants", ".dvc/config", ".dvcignore", ".gitignore"),
    "data/published/README.md",
)


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

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment in the clone."""
        return subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=600)

    def stages_run(self, *arguments: str) -> set[str]:
        """Run dvc; returns the stages that worked (neither unchanged nor restored from the cache)."""
        done = self.run("dvc", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return {line.split("'")[1] for line in done.stdout.splitlines() if line.startswith("Running stage")}

    def metrics(self, stage: str) -> dict[str, Any]:
        """What a stage measured."""
        return json.loads((self.folder / "reports" / "metrics" / f"{stage}.json").read_text())


def test_a_users_folder_runs_through_the_whole_pipeline_and_reruns_only_what_changed(tmp_path: Path) -> None:
    clone = Clone(tmp_path / "clone")
    clone.change(TINY | {"data.source": "photos", "data.val_fraction": 0.2})
    assert clone.stages_run("repro") == set(STAGES)
    for made in ("reports/index.html", "data/samples/cfg.npz", "reports/figures/samples/held_prologue.png"):
        assert (clone.folder / made).is_file()
    assert clone.stages_run("repro") == set()

    clone.change({"sampling.no_cfg.visual.temperature": 0.9})
    assert clone.stages_run("repro") == {"samples", "evaluate_generation", "report"}
    clone.change({"sampling.no_cfg.visual.temperature": 1.0})
    assert clone.stages_run("repro") == set()  # from the run-cache

    clone.change({"prologue.tokens": 2})
    after_the_shards = {"plan", "tokenizer", "attach", "tokens", "ar", "samples", "attention", "probe", "report"}
    assert clone.stages_run("repro") == after_the_shards | {"evaluate_reconstruction", "evaluate_generation"}


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


def test_every_system_runs_to_its_report_and_post_reuses_the_2d_tokenizer(tmp_path: Path) -> None:
    clone = Clone(tmp_path / "clone")
    clone.change(TINY | {"data.source": "photos", "data.val_fraction": 0.2, "prologue.mode": "none"})
    assert clone.stages_run("repro") == set(STAGES)
    frozen = clone.metrics("evaluate_reconstruction")

    clone.change({"prologue.mode": "post"})
    assert clone.stages_run("repro") == set(STAGES) - {"shards", "reference", "tokenizer"}
    assert clone.metrics("attach")["attached"]
    post = clone.metrics("evaluate_reconstruction")
    for measure in ("psnr", "ssim", "l1", "rfd_lite2"):
        assert post[measure] == frozen[measure]

    for system in ({"prologue.mode": "onestage"}, {"prologue.mode": "routed", "tokenizer.layout": "1d"}):
        clone.change(system)
        assert clone.stages_run("repro") == set(STAGES) - {"shards", "reference"}
    assert "ar_loss" in clone.metrics("tokenizer")["val"]


def test_a_published_folder_takes_the_place_of_training(tmp_path: Path) -> None:
    clone = Clone(tmp_path / "clone")
    classes = tuple(f"kind {number}" for number in range(10))  # as many as the checkpoint knows
    write_image_folder(clone.folder / "ten", per_class=5, classes=classes)
    shutil.copytree(ROOT / "tests" / "published" / "2d", clone.folder / "data" / "published" / "2d")
    clone.change(TINY | {"data.source": "ten", "data.val_fraction": 0.2})
    flags = clone.run("prologue", "import", "data/published/2d").stdout.split()
    assert clone.stages_run("exp", "run", *flags) == set(STAGES)
    assert clone.metrics("tokenizer")["imported"]
    assert clone.metrics("ar")["imported"]
    assert "train" not in clone.metrics("tokens")  # nothing trains on them
    tokenizer = load_tokenizer(clone.folder / "models" / "tokenizer")
    expected = np.load(ROOT / "tests" / "published" / "2d" / "expected.npz")
    tokens = tokenizer.encode(torch.from_numpy(expected["images"]))
    assert torch.equal(tokens.visual, torch.from_numpy(expected["ema_token_ids"]))

    # a prologue for the published tokenizer, and an AR model on its ids
    ran = clone.stages_run("exp", "run", "-S", "prologue.mode=post", "-S", "ar.source=train")
    assert ran == set(STAGES) - {"shards", "reference"}  # an import is checked against all of the params, so it runs
    before, after = (
        load_file(clone.folder / "models" / name / "model.safetensors") for name in ("tokenizer", "attached")
    )
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert clone.metrics("attach")["attached"]

    clone.change({"tokenizer.codebook": 97})
    refused = clone.run("dvc", "repro", "tokenizer")
    assert refused.returncode != 0
    assert "tokenizer.codebook is 97, the checkpoint has 96" in refused.stdout + refused.stderr
