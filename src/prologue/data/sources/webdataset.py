"""Webdataset shards: tars in which the files of a sample share a key, the image beside its class (.cls) or .json."""

import json
from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from prologue.core.errors import PrologueError
from prologue.data.images import EXTENSIONS, MANIFEST
from prologue.data.sources.base import File, Source, Unusable
from prologue.data.sources.layout import is_system, parts_of_files
from prologue.data.sources.tar_archive import read_span, tar_files

IMAGE_ENDINGS = {*EXTENSIONS.values(), "jpeg", "tiff"}
LABEL_ENDINGS = ("cls", "json")
LABEL_KEYS = ("label", "cls", "class")  # in .json; the first that is there
LONGEST_LABEL = 2**20  # bytes
FIRST_MEMBERS = 20  # in which a shard shows its labels
NAMED = 3  # tars in a message
MOST_OPEN = 100  # tars at once in a process, which a system may allow 256 of


class WebdatasetSource(Source):
    """Samples of webdataset tars. A shard that this project wrote is one too.

    The part follows from a tar's name or folder. Classes are the numbers or texts of .cls, or `label`, `cls` or `class`
    in .json; their names come from a manifest.json of ours beside the tars. Of several images in a sample, that whose
    name has the fewest words is taken: x.jpg before x.depth.png.
    """

    in_folders = False

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._tars = _tars(path)
        self._root = path if path.is_dir() else path.parent
        self._open: dict[int, BinaryIO] = {}
        names = _names(self._root / MANIFEST)
        self.classes = [str(label) for label in range(len(names))] or None
        self.readable = {str(label): name for label, name in enumerate(names)}
        self._part = self._parts()

    def _name(self, tar: Path) -> str:
        return tar.relative_to(self._root).as_posix()

    def _parts(self) -> dict[Path, str | None]:
        """The part of each tar. Raises PrologueError where some have none."""
        found = parts_of_files([self._name(tar) for tar in self._tars])
        parts = {tar: found[self._name(tar)] for tar in self._tars}
        unknown = [self._name(tar) for tar, part in parts.items() if part is None]
        if unknown and len(unknown) < len(parts):
            raise PrologueError(
                f"{', '.join(unknown[:NAMED])}: of no known part beside tars of parts; move it, or name it train or val"
            )
        for part in set(filter(None, parts.values())):
            names = [self._name(tar) for tar in self._tars if parts[tar] == part]
            rest = len(names) - NAMED
            self.named_parts[part] = ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")
        return parts

    def files(self) -> Iterator[File]:
        for number, tar in enumerate(self._tars):
            name, part = self._name(tar), self._part[tar]
            with tar.open("rb") as file:
                for key, members in groupby(tar_files(tar, number), lambda member: _key(member.path)):
                    yield from self._sample(f"{name}#{key}", list(members), file.fileno(), part)

    def read(self, path: str, size: int, place: tuple[int, ...]) -> bytes:
        if place[0] not in self._open:
            if len(self._open) == MOST_OPEN:
                self._open.pop(next(iter(self._open))).close()
            self._open[place[0]] = self._tars[place[0]].open("rb")
        return read_span(self._open[place[0]].fileno(), place[1], size)

    def _sample(self, name: str, members: list[File], descriptor: int, part: str | None) -> Iterator[File]:
        """The image of one sample with its class."""
        members.sort(key=lambda member: member.path.count("."))  # stable: plain endings first
        image = next((member for member in members if _ending(member.path) in IMAGE_ENDINGS), None)
        if image is None:
            return
        found = (member for ending in LABEL_ENDINGS for member in members if _ending(member.path) == ending)
        label, problem, class_name = next(found, None), image.problem, None
        if label is None or label.size > LONGEST_LABEL:
            problem = problem or "the sample has no class: no .cls or .json"
        else:
            try:
                class_name = _class_of(label, read_span(descriptor, label.place[1], label.size))
                problem = problem or (None if class_name else f"{label.path} tells no class")
            except Unusable as error:
                problem = problem or str(error)
        if self.classes and class_name is not None and class_name not in self.readable:
            problem = problem or f"its class is {class_name}, and {MANIFEST} names {len(self.classes)}"
        yield File(name, image.size, image.place, problem, part, class_name)


def has_labels(endings: list[str]) -> bool:
    """Whether the endings of a tar's first files say that it holds samples with labels."""
    return any(_ending(ending) in LABEL_ENDINGS for ending in endings)


def first_endings(path: Path) -> list[str]:
    """What is behind the keys of the first files of a tar, or of the first tar of a folder; none of what is no tar."""
    try:
        names = [file.path for tar in _tars(path)[:1] for file in islice(tar_files(tar), FIRST_MEMBERS)]
    except PrologueError:
        return []
    return sorted({"." + PurePosixPath(name).name.partition(".")[2] for name in names})


def _tars(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(path.rglob("*.tar"))
    return [tar for tar in found if not any(map(is_system, tar.relative_to(path).parts))]


def _names(manifest: Path) -> list[str]:
    """Class names of a manifest.json of ours; none where it is missing or another's."""
    try:
        content = json.loads(manifest.read_text())
    except (OSError, ValueError):
        return []
    names = content.get("classes") if isinstance(content, dict) else None
    return list(map(str, names)) if isinstance(names, list) else []


def _ending(path: str) -> str:
    return path.rsplit(".", 1)[-1].lower()


def _key(path: str) -> str:
    """What the files of a sample share: their path up to the first dot of the file's name."""
    folder, slash, name = path.rpartition("/")
    return folder + slash + name.split(".", 1)[0]


def _class_of(label: File, content: bytes) -> str | None:
    """The class in a .cls or .json. Raises Unusable for one that cannot be read."""
    try:
        if _ending(label.path) == "cls":
            text = content.decode("utf-8-sig").strip()  # an editor may have marked it as UTF-8
            if not text.isprintable():
                raise ValueError("not a printable text")
            return text or None
        value = json.loads(content)
    except ValueError as error:  # also of bytes that are no UTF-8
        raise Unusable(f"{label.path} cannot be read: {error}") from error
    found = (value[key] for key in LABEL_KEYS if key in value) if isinstance(value, dict) else iter(())
    name = next(found, None)
    if isinstance(name, (dict, list)):
        raise Unusable(f"{label.path} tells several classes")
    return None if name is None or name == -1 else str(name)
