"""How a generated file was made is read back from it, whatever kind it is and wherever it was copied."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from harmful import Harmful
from PIL import Image
from small_models import make_tokenizer

from prologue.core.errors import PrologueError
from prologue.core.recipe import read_recipe, recipe_array, save_picture
from prologue.evaluation.external import evaluate
from prologue.generator.files import read_ids

RECIPE = {"model": 'a <model> & "more"', "seed": 3, "settings": {"visual": {"guidance": 2.5}}, "classes": ["bag"]}
GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
COMPOSITE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_a_picture_carries_its_recipe_and_says_that_it_is_generated(tmp_path: Path, kind: str) -> None:
    picture = Image.effect_noise((40, 30), 90).convert("RGB")
    save_picture(picture, tmp_path / f"own.{kind}", kind, RECIPE)  # type: ignore[arg-type]
    shutil.copy(tmp_path / f"own.{kind}", tmp_path / f"copy.{kind}")
    recipe, source = read_recipe(tmp_path / f"copy.{kind}")
    assert recipe.items() >= RECIPE.items()
    assert recipe["software"].startswith("prologue ")
    assert source == GENERATED
    with Image.open(tmp_path / f"copy.{kind}") as copied:
        assert np.array_equal(np.array(copied), np.array(picture))
    save_picture(picture, tmp_path / f"half.{kind}", kind, RECIPE, "compositeWithTrainedAlgorithmicMedia")  # type: ignore[arg-type]
    assert read_recipe(tmp_path / f"half.{kind}")[1] == COMPOSITE


def test_an_npz_carries_its_recipe(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", np.zeros(3), recipe=recipe_array(RECIPE))
    recipe, source = read_recipe(tmp_path / "own.npz")
    assert recipe.items() >= RECIPE.items()
    assert source is None


def test_a_file_without_a_recipe_is_no_file_of_ours(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.jpg")
    np.savez(tmp_path / "plain.npz", np.zeros(3))
    (tmp_path / "text.txt").write_text("no picture")
    for name in ("plain.png", "plain.jpg", "plain.npz", "text.txt"):
        with pytest.raises(PrologueError, match=f"{name} carries no recipe"):
            read_recipe(tmp_path / name)
    with pytest.raises(PrologueError, match=r"missing\.png not found: there is no such file"):
        read_recipe(tmp_path / "missing.png")


def test_no_pickle_in_an_npz_is_loaded(tmp_path: Path) -> None:
    harmful = np.array([Harmful(tmp_path / "called")], dtype=object)
    path = tmp_path / "pickled.npz"
    np.savez(path, allow_pickle=True, recipe=harmful, visual=harmful, mu=harmful, sigma=harmful)
    with pytest.raises(PrologueError, match=r"pickled\.npz carries no recipe"):
        read_recipe(path)
    with pytest.raises(PrologueError, match=r"pickled\.npz holds no ids"):
        read_ids(path, make_tokenizer())
    np.savez(tmp_path / "images.npz", np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), np.uint8))
    with pytest.raises(PrologueError, match=r"pickled\.npz is no npz of images or statistics"):
        evaluate(tmp_path / "images.npz", path, "lite2", None, 8)
    assert not (tmp_path / "called").exists()
    with np.load(path, allow_pickle=True) as file:
        file["mu"]
    assert (tmp_path / "called").exists()
