"""params.yaml and its variants: what is wrong is refused before any work, by name."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from prologue.params import Params, ParamsError, load_params
from prologue.variants import experiment_flags, load_variants, read_variants

STAGES = sorted(path.stem for path in (ROOT / "stages").glob("*.py"))


def write_params(folder: Path, key: str, value: object) -> Path:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    section = values
    *parents, last = key.split(".")
    for parent in parents:
        section = section[parent]
    section[last] = value
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("prologue.token", 8, r"prologue\.token: unknown key; did you mean tokens\?"),
        ("smapling", {}, r"smapling: unknown key; did you mean sampling\?"),
        ("stage1.discriminator.colour", 1, r"stage1\.discriminator\.colour: unknown key; allowed here: layers, width"),
        ("prologue.tau", 0, r"prologue\.tau: Input should be greater than 0 \(got 0\)"),
        ("prologue.mode", "jiont", r"prologue\.mode: Input should be 'joint', .* \(got 'jiont'\)"),
        ("ar.dim", 100, r"ar\.dim: Input should be a multiple of 64"),
        ("tokenizer.patch", 5, r"tokenizer\.patch: 5 does not divide data\.image_size 32"),
        ("stage1.steps", "two epochs", r"stage1\.steps: Input should be a number of steps, .* \(got 'two epochs'\)"),
        ("stage1.lr", "fast", r"stage1\.lr: Input should be a valid number"),
        ("probe.mae.batch", 1, r"probe\.mae\.batch: Input should be greater than or equal to 2"),
    ],
)
def test_bad_params_are_refused_by_name(key: str, value: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=message):
        load_params(write_params(tmp_path, key, value))


def test_a_missing_key_and_a_missing_file_are_named(tmp_path: Path) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    del values["ar"]["steps"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ParamsError, match=r"ar\.steps: missing"):
        load_params(tmp_path / "params.yaml")
    with pytest.raises(ParamsError, match="run from the root"):
        load_params(tmp_path / "other.yaml")


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_validates_first(stage: str, tmp_path: Path) -> None:
    """A stage script does nothing but hand its work to run_stage, which validates before it works."""
    tree = (ROOT / "stages" / f"{stage}.py").read_text()
    assert tree.rstrip().endswith(f'run_stage("{stage}", main)')
    assert len(tree.splitlines()) <= 40


def test_a_stage_with_a_misspelt_param_stops_before_it_works(tmp_path: Path) -> None:
    write_params(tmp_path, "data.sorce", "x")
    script = ROOT / "stages" / "shards.py"
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "data.sorce: unknown key; did you mean source?" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_every_variant_fits_the_params(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    names = read_variants()
    assert names
    for name in names:
        assert load_variants([name])
    flags = experiment_flags(load_variants(["smoke", "post"]))
    assert "prologue.mode=post" in flags
    assert "stage1.steps=30" in flags


def test_every_key_has_a_comment_or_a_commented_twin() -> None:
    """params.yaml documents itself: a key without a comment has its namesake explained in the other stage."""
    lines = (ROOT / "params.yaml").read_text().splitlines()
    keys = [(line.split("#")[0].split(":")[0].strip(), "#" in line) for line in lines if ":" in line.split("#")[0]]
    explained = {key for key, commented in keys if commented}
    sections = set(Params.model_fields)
    assert {key for key, _ in keys} - explained - sections <= {"layers", "dim", "encoder", "decoder"}
