"""From a source to webdataset tars: every image verified, its bytes kept, the same output for the same input."""

import hashlib
import math
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from webdataset import TarWriter

from prologue.data.images import EXTENSIONS, MANIFEST, MANIFEST_FORMAT, ImageShards, index_path, open_image, to_rgb
from prologue.data.sources import Entry, Rejected, Unusable, open_source
from prologue.errors import PrologueError
from prologue.files import replacing, sha256, write_json
from prologue.params import DataParams
from prologue.runtime import available_cores, progress

SPLITS = ("train", "val")
VERIFIED_AT_ONCE = 256  # images in memory
MIN_VALIDATION = 10  # images that the metrics need
MAX_ASPECT = 100  # scaling the shorter side of a thinner image to image_size would take too much memory
MAX_BYTES_PER_PIXEL = 8  # 16-bit RGBA, uncompressed
NAMED_IN_ERROR = 5  # rejected files


@dataclass(frozen=True)
class Sample:
    """An image file that decodes without a fault. `extension` is that of its real format."""

    label: int
    path: str
    extension: str
    data: bytes


def write_shards(data: DataParams, seed: int, output: Path) -> dict[str, Any]:
    """Write {train,val}/NNNNNN.tar, their indexes and manifest.json to the folder `output`.

    A tar holds the original bytes of each image, its class id (.cls) and its path in the source (.txt). The order of
    the images and the choice of held-out images depend on `seed` and their paths alone.

    Returns:
        Counts of images, classes and rejected files.

    Raises:
        PrologueError: the source cannot be used, or more than data.max_rejected of its files cannot.
    """
    with open_source(data.source) as source, replacing(output) as folder:
        splits = _choose(source.entries, data, seed)
        classes = sorted({entry.class_name for entry in splits["train"]})
        rejections = _Rejections(source.rejected, sum(map(len, splits.values())), data)
        manifest: dict[str, Any] = {"format": MANIFEST_FORMAT, "classes": classes}
        for split in SPLITS:
            entries = progress(_verify(splits[split], classes, data), f"{split} shards", "image", len(splits[split]))
            shards = _write_tars(folder, split, rejections.without(entries), data.images_per_shard)
            manifest[split] = {"images": sum(shard["images"] for shard in shards), "shards": shards}
        manifest["rejected"] = [asdict(item) for item in rejections.items]
        write_json(folder / MANIFEST, manifest)
        _require_all_classes(folder, data.source)
    return {
        "train": {"images": manifest["train"]["images"]},
        "val": {"images": manifest["val"]["images"]},
        "classes": len(classes),
        "rejected": {"count": len(rejections.items), "share": rejections.share},
    }


def _choose(entries: list[Entry], data: DataParams, seed: int) -> dict[str, list[Entry]]:
    """The entries of each split in shuffled order, held out and limited as the params say."""
    shuffled = sorted(entries, key=lambda entry: _shuffle_key(seed, entry.member.path))
    if not any(entry.split == "val" for entry in entries):
        shuffled = _hold_out(shuffled, data.val_fraction)
    train = _limit([entry for entry in shuffled if entry.split != "val"], data.train_limit)
    val = _limit([entry for entry in shuffled if entry.split == "val"], data.val_limit)
    unknown = {entry.class_name for entry in shuffled} - {entry.class_name for entry in train}
    if unknown:
        raise PrologueError(
            f"data.source: {data.source} has no training images of the classes {_list(unknown)}; "
            "every class needs images in train/, and data.train_limit at least one per class"
        )
    if not val:
        raise PrologueError(f"data.source: {data.source} has one image per class, so none can be held out; add val/")
    return {"train": train, "val": val}


def _shuffle_key(seed: int, path: str) -> bytes:
    return hashlib.sha256(f"{seed}:{path}".encode("utf-8", "backslashreplace")).digest()


def _hold_out(entries: list[Entry], fraction: float) -> list[Entry]:
    """Mark the first entries of each class as validation.

    The fraction of a class; of small classes more, up to half, to reach MIN_VALIDATION images in all.
    """
    counts = Counter(entry.class_name for entry in entries)
    least = math.ceil(MIN_VALIDATION / len(counts))
    held_out = {
        name: min(max(round(fraction * count), min(least, count // 2)), count - 1) for name, count in counts.items()
    }
    return [
        replace(entry, split="val" if rank < held_out[entry.class_name] else "train")
        for rank, entry in _ranked(entries)
    ]


def _limit(entries: list[Entry], limit: int | None) -> list[Entry]:
    """At most `limit` entries, as even over the classes as their sizes allow, in unchanged order."""
    places = sorted((rank, place) for place, (rank, _) in enumerate(_ranked(entries)))[:limit]
    return [entries[place] for place in sorted(place for _, place in places)]


def _ranked(entries: list[Entry]) -> Iterator[tuple[int, Entry]]:
    """Each entry with the number of entries of its class before it."""
    seen: Counter[str] = Counter()
    for entry in entries:
        yield seen[entry.class_name], entry
        seen[entry.class_name] += 1


def _verify(entries: list[Entry], classes: list[str], data: DataParams) -> Iterator[Sample | Rejected]:
    """Decode each entry, on all cores, in order."""
    labels = {name: label for label, name in enumerate(classes)}

    def load(entry: Entry) -> Sample | Rejected:
        path = entry.member.path
        try:
            content = _read(entry, data.max_pixels)
            return Sample(labels[entry.class_name], path, check_image(content, data.max_pixels), content)
        except Unusable as reason:
            return Rejected(path, str(reason))

    with ThreadPoolExecutor(available_cores()) as threads:
        for first in range(0, len(entries), VERIFIED_AT_ONCE):
            yield from threads.map(load, entries[first : first + VERIFIED_AT_ONCE])


def _read(entry: Entry, max_pixels: int) -> bytes:
    """The bytes of a file, which a zip may claim to be endless."""
    if entry.member.size > MAX_BYTES_PER_PIXEL * max_pixels + 2**20:
        raise Unusable(f"{entry.member.size} bytes, more than an image of {max_pixels} pixels takes")
    return entry.member.read()


def check_image(content: bytes, max_pixels: int) -> str:
    """Decode an image file completely; return the extension of its real format. Raises Unusable with the reason."""
    try:
        with open_image(content) as image:
            if image.width * image.height > max_pixels:
                raise Unusable(f"{image.width} x {image.height} pixels, more than data.max_pixels = {max_pixels}")
            if max(image.size) > MAX_ASPECT * min(image.size):
                raise Unusable(f"{image.width} x {image.height} pixels: longer than {MAX_ASPECT} times its width")
            if getattr(image, "is_animated", False) and image.format != "MPO":
                raise Unusable("more than one frame or page")
            to_rgb(image)
            return EXTENSIONS[str(image.format)]
    except Unusable:
        raise
    except Exception as error:  # Pillow's plugins raise nearly anything on damaged files
        raise Unusable(f"does not decode: {error or type(error).__name__}") from error


class _Rejections:
    """The files that cannot be used, and when they are too many."""

    def __init__(self, items: list[Rejected], images: int, data: DataParams) -> None:
        self.items: list[Rejected] = []
        self._total = images + len(items)
        self._data = data
        for item in items:
            self._add(item)

    @property
    def share(self) -> float:
        """Of all files that were to become images."""
        return len(self.items) / self._total

    def without(self, results: Iterable[Sample | Rejected]) -> Iterator[Sample]:
        """Pass samples on; keep rejected files. Raises PrologueError once they are too many."""
        for result in results:
            if isinstance(result, Rejected):
                self._add(result)
            else:
                yield result

    def _add(self, item: Rejected) -> None:
        self.items.append(item)
        if self.share > self._data.max_rejected:
            named = "".join(f"\n  {item.path}: {item.reason}" for item in self.items[:NAMED_IN_ERROR])
            raise PrologueError(
                f"data.source: more than data.max_rejected = {self._data.max_rejected:g} of the {self._total} files of "
                f"{self._data.source} cannot be used; mend or remove them, or raise the limit. The first:{named}"
            )


def _write_tars(folder: Path, split: str, samples: Iterable[Sample], images_per_shard: int) -> list[dict[str, Any]]:
    """Write tars and indexes of a split; return their entries in the manifest."""
    (folder / split).mkdir(parents=True)
    shards = []
    for number, group in groupby(enumerate(samples), lambda item: item[0] // images_per_shard):
        path = folder / split / f"{number:06d}.tar"
        index = _write_tar(path, group)
        np.save(index_path(path), index)
        shards.append({"file": f"{split}/{path.name}", "images": len(index), "sha256": sha256(path)})
    return shards


def _write_tar(path: Path, samples: Iterable[tuple[int, Sample]]) -> NDArray[np.int64]:
    """Write a webdataset tar of numbered samples; return its index."""
    index = []
    with path.open("wb") as file, TarWriter(file, user="", group="", mtime=0, encoder=False) as tar:
        for number, sample in samples:
            key = {"__key__": f"{number:08d}"}
            index.append((tar.tarstream.offset + tarfile.BLOCKSIZE, len(sample.data), sample.label))  # past its header
            tar.write(key | {sample.extension: sample.data})
            tar.write(key | {"cls": b"%d" % sample.label, "txt": sample.path.encode("utf-8", "backslashreplace")})
    return np.array(index, dtype=np.int64)


def _require_all_classes(folder: Path, source: Path) -> None:
    """Raise PrologueError where damaged files leave a class without training images, or nothing to validate on."""
    train, val = ImageShards(folder, "train"), ImageShards(folder, "val")
    lost = set(train.classes) - {train.classes[label] for label in train.labels}
    if lost or not len(val):
        what = f"training image of the classes {_list(lost)}" if lost else "validation image"
        raise PrologueError(f"data.source: no {what} in {source} can be used; check that its files are images")


def _list(names: Iterable[str]) -> str:
    """The first few of some names, for a message."""
    first, *others = sorted(names)
    shown = ", ".join([first, *others[: NAMED_IN_ERROR - 1]])
    return shown + (", ..." if len(others) >= NAMED_IN_ERROR else "")
