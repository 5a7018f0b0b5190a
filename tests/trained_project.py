"""A project that has trained at toy size, as commands that use its models find it."""

import shutil
from pathlib import Path

import yaml
from tiny import tiny_params

from prologue.core.files import write_json
from prologue.sampling.adopted import ADOPTED


def make_trained_project(folder: Path, trained: Path) -> Path:
    """A project folder of the models of the fixture `trained`; returns it."""
    (folder / "data").mkdir(parents=True)
    params = tiny_params(data__source="photos").model_dump(mode="json")
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    for name, place in {"tokenizer": "models/attached", "ar": "models/ar", "tokens": "data/tokens"}.items():
        shutil.copytree(trained / name, folder / place)
    write_json(folder / "data" / "sweep" / ADOPTED, {})
    return folder
