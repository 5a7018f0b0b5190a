"""The watermark: found where it is and under its own key alone, and its key is nowhere but where the user put it."""

import copy
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from report_sample import build
from small_models import make_tokenizer
from tiny import tiny_params
from trained_project import make_trained_project

from prologue.cli import main as cli
from prologue.core.errors import PrologueError
from prologue.core.files import read_json
from prologue.core.recipe import read_recipe
from prologue.core.work import work_root
from prologue.evaluation.reference import compute_reference
from prologue.generator.folders import load_generator
from prologue.pipeline.samples import make_samples
from prologue.sampling.watermark import KEY_VARIABLE, Watermark, near_codes, read_key

KEY = "7c1f0a5bd8e64f2f93aa6c40"
IMAGES = 60


def run(*words: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["prologue", *map(str, words)])
        cli.main()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Images of the model that ships, marked and not, in a folder with the key."""
    folder = tmp_path_factory.mktemp("drawn")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "watermark.key").write_text(KEY + "\n")
        (folder / "wrong.key").write_text(KEY[::-1])
        torch.set_num_threads(1)
        run("sample", "small", "--images", IMAGES, "--output", "plain")
        run("sample", "small", "--images", IMAGES, "--output", "marked", "--watermark", 3, "--key", "watermark.key")
        yield folder


def detected(capsys: pytest.CaptureFixture[str], images: str, key: str = "watermark.key") -> list[dict[str, Any]]:
    capsys.readouterr()
    run("detect", images, "--model", "small", "--key", key, "--json")
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["images"]
    return found


def share(found: list[dict[str, Any]], level: float = 0.01) -> float:
    return float(np.mean([image["p_value"] <= level for image in found]))


def test_a_mark_is_found_under_its_key_alone(drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in sorted((drawn / "marked").iterdir()):
        (drawn / "jpeg").mkdir(exist_ok=True)
        Image.open(path).save(drawn / "jpeg" / f"{path.stem}.jpg", quality=75)
    assert share(detected(capsys, "marked")) > 0.75
    assert share(detected(capsys, "jpeg")) > 0.6
    for images, key in (("marked", "wrong.key"), ("plain", "watermark.key")):
        found = detected(capsys, images, key)
        assert share(found) <= 3 / IMAGES, f"{images} under {key}"
        assert share(found, 0.5) < 0.7


def test_images_of_another_size_are_resized_and_that_is_said(drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (drawn / "large").mkdir()
    for path in sorted((drawn / "marked").iterdir()):
        Image.open(path).resize((96, 96), Image.Resampling.LANCZOS).save(drawn / "large" / path.name)
    found = detected(capsys, "large")
    assert all(image["resized"] for image in found)
    assert share(found) > 0.5
    run("detect", "large", "--model", "small", "--key", "watermark.key")
    printed = capsys.readouterr().out
    assert "cropped and resized to 32 px" in printed
    assert f"of {IMAGES} images with p <= 0.01; chance alone gives at most 1% of them" in printed


def test_the_mark_changes_no_recipe_but_its_strength(drawn: Path) -> None:
    plain, marked = (read_recipe(sorted((drawn / name).iterdir())[0])[0] for name in ("plain", "marked"))
    assert plain["settings"].pop("watermark") == {"strength": 0}
    assert marked["settings"].pop("watermark") == {"strength": 3}
    assert plain == marked


def test_the_key_is_in_nothing_that_is_written(
    trained: Path, shards: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    project = make_trained_project(drawn / "project", trained)
    monkeypatch.chdir(project)
    params = tiny_params(sampling__watermark__strength=2.0)
    models, tokens = (Path("models/ar"), Path("models/attached")), Path("data/tokens")
    metrics = make_samples(params, *models, tokens, shards, Path("data/sweep"), Path("data/samples"), Path("figures"))
    assert metrics["watermark_strength"] == 2
    assert read_recipe(Path("data/samples/cfg.npz"))[0]["settings"]["watermark"] == {"strength": 2}
    run("export", "exported")
    said = json.dumps(metrics) + "".join(capsys.readouterr())
    written = [path for folder in (drawn, work_root()) for path in folder.rglob("*") if path.is_file()]
    assert len(written) > 2 * IMAGES
    for path in written:
        said += "" if path.suffix == ".key" else path.read_bytes().decode("latin-1")
    assert KEY not in said
    assert KEY.encode().hex() not in said


def test_a_project_that_marks_its_samples_marks_those_of_the_commands(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_trained_project(tmp_path / "project", trained)
    params = (project / "params.yaml").read_text()
    assert "strength: 0.0" in params
    (project / "params.yaml").write_text(params.replace("strength: 0.0", "strength: 1.5"))
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    generator = load_generator(str(project))
    with pytest.raises(PrologueError, match="holds no key"):
        generator.sample(generator.cfg, [0], [(0, 0)])
    binary = bytes(range(128, 160))
    monkeypatch.setenv(KEY_VARIABLE, os.fsdecode(binary))  # as the shell's $(cat key) sets it
    assert read_key() == binary
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    mark = load_generator(str(project)).watermark
    assert mark is not None
    assert mark.strength == 1.5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "sample small --watermark 3",
            f"the environment's {KEY_VARIABLE} holds no key of the watermark; make one with",
        ),
        ("sample small --watermark 3 --key missing.key", "the key of the watermark cannot be read"),
        ("sample small --watermark -1 --key watermark.key", "--watermark: -1.0 is no strength"),
        ("detect plain --key empty.key", "empty.key holds no key of the watermark"),
        ("detect plain --key short.key", "short.key: a key of 5 bytes can be guessed, 16 are the least"),
        ("detect watermark.key --key watermark.key", "watermark.key cannot be used: does not decode"),
        ("watermark small", "small has no real images beside it: give the folder of a project that has run"),
        ("watermark small --strengths 0,1", "--strengths 0,1: a strength is above 0"),
    ],
)
def test_what_cannot_be_done_is_said(
    words: str, said: str, drawn: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    (drawn / "empty.key").touch()
    (drawn / "short.key").write_text("guess")
    with pytest.raises(SystemExit) as end:
        run(*words.split())
    assert end.value.code == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("layout", ["2d", "1d"])
def test_what_is_made_likelier_is_what_is_counted_and_flat_areas_are_neither(layout: str) -> None:
    tokenizer = make_tokenizer(prologue__mode="none", tokenizer__layout=layout)
    mark = Watermark(KEY.encode(), tokenizer, 2.0)
    ids = torch.randint(0, 32, (200, 16), generator=torch.Generator().manual_seed(0))
    up = 4 if layout == "2d" else 2
    counted, green = torch.zeros(200), torch.zeros(200)
    for place in range(16):
        bias = mark.bias(ids, torch.tensor([place]))
        own = bias.gather(1, ids[:, place : place + 1])[:, 0]
        if place < up:
            assert not bias.any()
            continue
        flat = (ids[:, place] == ids[:, place - 1]) | (ids[:, place] == ids[:, place - up])
        assert torch.allclose(own[flat], torch.tensor(1.4338), atol=1e-4)  # ln((1 + e^2) / 2)
        assert set(own[~flat].tolist()) == {0.0, 2.0}
        counted += (~flat).float()
        green += (own == 2).float()
    reading = mark.read(ids)
    assert (reading.counted == counted.numpy()).all()
    assert (reading.green == green.numpy()).all()


def test_p_values_of_an_image_are_uniform_over_keys() -> None:
    tokenizer = make_tokenizer(prologue__mode="none")
    ids = torch.randint(0, 32, (20, 16), generator=torch.Generator().manual_seed(0))
    p_values = np.stack([Watermark(f"key {key}".encode(), tokenizer).read(ids).p_value for key in range(200)])
    for level in (0.01, 0.1, 0.5):  # few tokens have few p-values: at most as many as are promised
        assert (p_values <= level).mean() < 1.2 * level
    assert (p_values <= 0.5).mean() > 0.3


def test_an_export_in_bf16_reads_what_the_model_marks() -> None:
    tokenizer = make_tokenizer(prologue__mode="none", tokenizer__codebook=4096)
    rounded = copy.deepcopy(tokenizer)
    rounded.load_state_dict({name: tensor.bfloat16() for name, tensor in tokenizer.state_dict().items()})
    ids = torch.randint(0, 4096, (50, 16), generator=torch.Generator().manual_seed(0))
    own, other = (Watermark(KEY.encode(), model).read(ids).green for model in (tokenizer, rounded))
    assert (own == other).all()


def test_any_strength_marks_and_a_single_token_says_nothing() -> None:
    ids = torch.zeros(3, 16, dtype=torch.long)
    mark = Watermark(KEY.encode(), make_tokenizer(prologue__mode="none"), 1000.0)
    assert mark.bias(ids, torch.tensor([5])).isfinite().all()
    single = Watermark(KEY.encode(), make_tokenizer(prologue__mode="none", tokenizer__layout="1d", tokenizer__tokens=1))
    assert single.read(ids[:, :1]).p_value.tolist() == [1, 1, 1]


def test_near_codes_share_a_cluster() -> None:
    centres = torch.eye(4).repeat_interleave(16, dim=0)
    clusters, count = near_codes(centres + 0.01 * torch.randn(64, 4, generator=torch.Generator().manual_seed(0)))
    assert count == 4
    assert (clusters.view(4, 16) == clusters.view(4, 16)[:, :1]).all()


def test_the_measured_watermark_is_in_the_report_of_its_own_model_alone(
    trained: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, params = make_trained_project(tmp_path / "project", trained), tiny_params()
    shutil.copytree(shards, project / "data" / "shards")
    compute_reference(params, project / "data" / "shards", project / "data" / "reference")
    monkeypatch.chdir(project)
    run("watermark", "--strengths", "2,4", "--images", 20, "--real", 30)
    found = read_json(Path("reports/watermark/watermark.json"))
    assert found["false_positives"]["real"]["images"] == 30
    assert list(found["detection"]) == ["2", "4"]
    assert all(own["low"] <= own["found"] <= own["high"] for own in found["detection"]["2"].values())
    assert found["cost"]["4"]["added_interval"]["low"] <= found["cost"]["4"]["added"]
    assert "| JPEG, quality 75 |" in Path("reports/watermark/watermark.md").read_text()
    shutil.copytree("reports/watermark", tmp_path / "watermark")
    own = build(tmp_path, params, {"samples": {"weights_sha256": found["weights_sha256"]}})
    assert "prologue watermark --strengths 2,4 --images 20 --real 30 --seed 0" in own.text
    assert "JPEG, quality 75" in own.text
    other = build(tmp_path, params, {"samples": {"weights_sha256": "of another"}})
    assert "JPEG, quality 75" not in other.text
