"""Image files of every kind, and collections of them as folders, zips and tars, that several tests share."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import webdataset
from PIL import Image

from prologue.core.params import DataParams


def noise(width: int = 12, height: int = 10, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def class_files(per_class: int, *folders: str) -> dict[str, bytes]:
    return {
        f"{folder}/{number}.png": encoded(noise(seed=1000 * place + number))
        for place, folder in enumerate(folders)
        for number in range(per_class)
    }


SPLIT = class_files(4, "train/cat", "train/dog") | class_files(2, "val/cat", "val/dog")
UNSPLIT = class_files(10, "cat", "dog")


def write_folder(files: dict[str, bytes], path: Path) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def write_zip(files: dict[str, bytes], path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_tar(files: dict[str, bytes], path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


Writer = Callable[[dict[str, bytes], Path], Path]
WRITERS: list[Writer] = [write_folder, write_zip, write_tar]


def params(source: Path, **changes: object) -> DataParams:
    defaults = {
        "source": source,
        "hash_content": False,
        "classes": None,
        "image_size": 8,
        "train_limit": None,
        "val_limit": None,
        "val_fraction": 0.2,
        "images_per_shard": 3,
        "max_pixels": 10_000,
        "max_rejected": 0.9,
    }
    return DataParams.model_validate(defaults | changes)


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def tar_paths(shards: Path, split: str) -> list[str]:
    """The source paths of a split's images, as a reader that knows nothing of the index sees them."""
    tars = sorted(str(path) for path in (shards / split).glob("*.tar"))
    dataset = webdataset.WebDataset(tars, shardshuffle=False, empty_check=False)
    return [sample["txt"].decode() for sample in dataset]
