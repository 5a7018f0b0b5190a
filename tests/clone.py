"""A copy of the project at toy size, in which DVC runs."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from preloaded import Preloaded
from tiny import ROOT, write_image_folder

CODE = (
    *("stages", "src", "params.yaml", "dvc.yaml", "variants", ".dvc/config", ".dvcignore", ".gitignore"),
    "data/published/README.md",
    "reports/watermark",
)
STAGES = set(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]) - {"source"}  # which looks in every run


class Clone:
    """A copy of the project at toy size in a git repository of its own."""

    def __init__(self, folder: Path, preloaded: Preloaded | None = None) -> None:
        """Stages start from `preloaded` processes, or as users' do."""
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
            "OMP_NUM_THREADS": "1",
            "HF_HOME": str(folder / "huggingface"),  # where no `accelerate config` was run
            **({"PROLOGUE_LAUNCH": preloaded.command} if preloaded else {}),
        }
        for command in ("init -q", "config user.email a@b.c", "config user.name a", "add -A", "commit -qm start"):
            subprocess.run(["git", *command.split()], cwd=folder, check=True)

    def change(self, overrides: Mapping[str, object]) -> None:
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

    def edit(self, module: str, old: str, new: str) -> None:
        """Change the source of a module of src/prologue."""
        path = self.folder / "src" / "prologue" / module
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment in the clone."""
        return subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=600)

    def stages_run(self, *arguments: str) -> set[str]:
        """Run dvc; returns the stages that worked (neither unchanged nor restored from the cache), but for `source`."""
        done = self.run("dvc", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        ran = {line.split("'")[1] for line in done.stdout.splitlines() if line.startswith("Running stage")}
        return ran - {"source"}

    def manifest(self) -> dict[str, Any]:
        """What the shards are made of."""
        return json.loads((self.folder / "data" / "shards" / "manifest.json").read_text())

    def metrics(self, stage: str) -> dict[str, Any]:
        """What a stage measured."""
        return json.loads((self.folder / "reports" / "metrics" / f"{stage}.json").read_text())
