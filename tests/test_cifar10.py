"""CIFAR-10 in each of the forms in which people have it."""

import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from harmful import Harmful
from PIL import Image
from pyarrow import parquet

from prologue.core.errors import PrologueError
from prologue.data.cifar10 import CLASSES, make_cifar10

NAMES = ("data_batch_1", "data_batch_2", "test_batch")
RNG = np.random.default_rng(0)
IMAGES = {name: RNG.integers(0, 256, (4, 32, 32, 3)).astype(np.uint8) for name in NAMES}
LABELS = {name: RNG.integers(0, 10, 4).tolist() for name in NAMES}


def planar(name: str) -> np.ndarray:
    return IMAGES[name].transpose(0, 3, 1, 2).reshape(4, -1)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def pickled(name: str) -> bytes:
    return pickle.dumps({b"labels": LABELS[name], b"data": planar(name)}, protocol=2)


def files(kind: str) -> dict[str, bytes]:
    """The dataset's files in one of its forms."""
    if kind == "python":
        return {name: pickled(name) for name in NAMES}
    if kind == "binary":
        rows = {name: np.column_stack((LABELS[name], planar(name))).astype(np.uint8) for name in NAMES}
        return {f"{name}.bin": own.tobytes() for name, own in rows.items()}
    if kind == "npm":
        train = LABELS["data_batch_1"] + LABELS["data_batch_2"]
        labels = {"train_lables.json": train, "test_lables.json": LABELS["test_batch"]}
        tall = {f"{name}.png": png(IMAGES[name].reshape(4, 1024, 3)) for name in NAMES}
        return tall | {name: json.dumps(own).encode() for name, own in labels.items()}
    found = {}
    for split, names in (("train", NAMES[:2]), ("test", NAMES[2:])):
        images = [{"bytes": png(pixels), "path": None} for name in names for pixels in IMAGES[name]]
        file = io.BytesIO()
        parquet.write_table(pa.table({"img": images, "label": [n for name in names for n in LABELS[name]]}), file)
        found[f"{split}-00000-of-00001.parquet"] = file.getvalue()
    return found


def write(folder: Path, kind: str, packed: bool) -> Path:
    """A folder of the dataset's files, or a tar.gz of them, each beside a file of no interest."""
    folder.mkdir()
    for name, content in (files(kind) | {"readme.html": b"<html>"}).items():
        (folder / name).write_bytes(content)
    if not packed:
        return folder
    archive = folder.with_suffix(".tar.gz")
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, "cifar-10")
    return archive


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["python", "binary", "npm", "parquet"])
def test_every_form_gives_the_same_images(tmp_path: Path, kind: str, packed: bool) -> None:
    counts = make_cifar10(write(tmp_path / kind, kind, packed), tmp_path / "cifar10.zip")
    assert counts == {"train": 8, "test": 4}
    with zipfile.ZipFile(tmp_path / "cifar10.zip") as archive:
        assert len(archive.namelist()) == 12
        for split, names in (("train", NAMES[:2]), ("test", NAMES[2:])):
            for number, (name, place) in enumerate(((name, place) for name in names for place in range(4)), start=1):
                member = f"{split}/{CLASSES[LABELS[name][place]]}/{number:05d}.png"
                pixels = np.asarray(Image.open(io.BytesIO(archive.read(member))))
                np.testing.assert_array_equal(pixels, IMAGES[name][place])


def test_pickles_that_call_anything_and_damaged_files_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "python", "python", packed=False)
    (folder / "data_batch_2").write_bytes(
        pickle.dumps({b"data": Harmful(tmp_path / "called"), b"labels": []}, protocol=2)
    )
    with pytest.raises(PrologueError, match="which is not read"):
        make_cifar10(folder, tmp_path / "cifar10.zip")
    (folder / "data_batch_2").write_bytes(pickled("data_batch_2")[:500])
    with pytest.raises(PrologueError, match="is no CIFAR-10, or damaged"):
        make_cifar10(folder, tmp_path / "cifar10.zip")
    damaged: list[object] = [b"three", {b"data": 3, b"labels": []}, {b"data": [], b"labels": None}, {}]
    for value in damaged:
        (folder / "data_batch_2").write_bytes(pickle.dumps(value, protocol=2))
        with pytest.raises(PrologueError, match="is no CIFAR-10, or damaged"):
            make_cifar10(folder, tmp_path / "cifar10.zip")
    (folder / "data_batch_2").unlink()
    (folder / "test_batch").unlink()
    with pytest.raises(PrologueError, match="4 training and 0 test images"):
        make_cifar10(folder, tmp_path / "cifar10.zip")
    (tmp_path / "page.tar.gz").write_text("<html>")
    for missing in (tmp_path / "nowhere", tmp_path / "page.tar.gz"):
        with pytest.raises(PrologueError, match="is no CIFAR-10, or damaged"):
            make_cifar10(missing, tmp_path / "cifar10.zip")
    assert not (tmp_path / "cifar10.zip").exists()
    assert not (tmp_path / "called").exists()
