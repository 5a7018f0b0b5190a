"""Webdataset shards: tars in which the files of a sample share a key, the image beside its class (.cls) or .json."""

import json
from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from prologue.core.errors import PrologueError
from prologue.data.images import EXTENSIONS, MANIFEST
from prologue.data.sources.base import File, Source, Unusable
from prologue.data.sources.layout import split_of
from prologue.data.sources.tar_archive import read_span, tar_files

IMAGE_ENDINGS = {*EXTENSIONS.values(), "jpeg", "tiff"}
LABEL_ENDINGS = ("cls", "json")
LONGEST_LABEL = 2**20  # bytes
FIRST_MEMBERS = 20  # in which a shard shows its labels


class WebdatasetSource(Source):
    """Samples of webdataset tars. A shard that this project wrote is one too.

    The split follows from a tar's name or folder. Classes are the numbers or texts of .cls, or 'label' in .json; their
    names come from a manifest.json of ours beside the tars.
    """

    in_folders = False

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._tars = _tars(path)
        self._root = path if path.is_dir() else path.parent
        self._open: dict[int, Any] = {}
        manifest = self._root / MANIFEST
        names = json.loads(manifest.read_text())["classes"] if manifest.is_file() else []
        self.classes = [str(label) for label in range(len(names))] or None
        self.readable = {str(label): name for label, name in enumerate(names)}

    def files(self) -> Iterator[File]:
        for number, tar in enumerate(self._tars):
            name = tar.relative_to(self._root).as_posix()
            with tar.open("rb") as file:
                for key, members in groupby(tar_files(tar, number), lambda member: _key(member.path)):
                    yield from self._sample(f"{name}#{key}", list(members), file.fileno(), split_of(name))

    def read(self, path: str, size: int, place: tuple[int, ...]) -> bytes:
        if place[0] not in self._open:
            self._open[place[0]] = self._tars[place[0]].open("rb")
        return read_span(self._open[place[0]].fileno(), place[1], size)

    def _sample(self, name: str, members: list[File], descriptor: int, split: str | None) -> Iterator[File]:
        """The image of one sample with its class."""
        by_ending = {member.path.rsplit(".", 1)[-1].lower(): member for member in members}
        images = [member for ending, member in by_ending.items() if ending in IMAGE_ENDINGS]
        if not images:
            return
        label = next((by_ending[ending] for ending in LABEL_ENDINGS if ending in by_ending), None)
        problem, class_name = images[0].problem, None
        if label is None or label.size > LONGEST_LABEL:
            problem = problem or "the sample has no class: no .cls or .json"
        else:
            class_name = _class_of(label.path, read_span(descriptor, label.place[1], label.size))
            problem = problem or (None if class_name else f"{label.path} tells no class")
        yield File(name, images[0].size, images[0].place, problem, split, class_name)


def looks_like_shards(path: Path) -> bool:
    """Whether a tar, or the first tar of a folder, holds samples with labels."""
    try:
        names = [file.path for tar in _tars(path)[:1] for file in islice(tar_files(tar), FIRST_MEMBERS)]
    except PrologueError:
        return False
    return any(name.rsplit(".", 1)[-1] in LABEL_ENDINGS for name in names)


def _tars(path: Path) -> list[Path]:
    return sorted(path.rglob("*.tar")) if path.is_dir() else [path]


def _key(path: str) -> str:
    """What the files of a sample share: their path up to the first dot of the file's name."""
    folder, slash, name = path.rpartition("/")
    return folder + slash + name.split(".", 1)[0]


def _class_of(path: str, content: bytes) -> str | None:
    try:
        if path.endswith(".cls"):
            return content.decode().strip() or None
        value = json.loads(content)
        label = value.get("label", value.get("cls")) if isinstance(value, dict) else None
        return None if label is None else str(label)
    except ValueError as error:
        raise Unusable(str(error)) from error
