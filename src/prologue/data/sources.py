"""Where images come from: a folder, a zip or a tar of class folders, read in place and never extracted.

The layout is class folders on top, or train/ and val/ (else validation/, else test/) with class folders inside; one
folder that wraps everything is descended into. Hidden files and __MACOSX are ignored, as are other folders beside
train/ and val/, and files outside class folders that are not images by their name.
"""

import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from PIL import Image

from prologue.data.images import EXTENSIONS
from prologue.errors import PrologueError

VAL_FOLDERS = ("val", "validation", "test")  # the first that a source has is its validation split


class Unusable(Exception):
    """One file cannot be used; the message is the reason the manifest gives."""


@dataclass(frozen=True)
class Rejected:
    """A file that cannot be used."""

    path: str
    reason: str


@dataclass(frozen=True)
class Member:
    """A file as its container lists it. `read` returns its bytes and raises Unusable."""

    path: str
    size: int
    problem: str | None
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Entry:
    """A file in a class folder; `split` is 'train', 'val', or None where the source is not split."""

    split: str | None
    class_name: str
    member: Member


@dataclass
class Source:
    """What a source holds: entries in the order of their paths, and the files that no class can claim."""

    entries: list[Entry] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """List a folder, zip or tar; entries can be read until the context ends.

    Raises:
        PrologueError: the source is missing, of no known kind, damaged, or holds no class folders with files.
    """
    if not path.exists():
        raise PrologueError(f"data.source: {path} not found; name a folder, zip or tar of class folders")
    with ExitStack() as stack:
        try:
            members = sorted(_members(path, stack), key=lambda member: member.path)
        except (tarfile.TarError, zipfile.BadZipFile, OSError) as error:
            raise PrologueError(f"data.source: {path} cannot be listed: {error}; is it damaged?") from error
        yield _arrange(path, members)


def _members(path: Path, stack: ExitStack) -> Iterator[Member]:
    if path.is_dir():
        return _folder_members(path)
    try:  # before zip: a zip is never taken for a tar, but a tar that holds a stored zip may be taken for a zip
        file = stack.enter_context(path.open("rb"))
        return _tar_members(stack.enter_context(tarfile.open(fileobj=file, mode="r:")), file.fileno())
    except tarfile.ReadError:
        if zipfile.is_zipfile(path):
            return _zip_members(stack.enter_context(zipfile.ZipFile(path)))
    raise PrologueError(f"data.source: {path} is neither a folder nor a zip nor an uncompressed tar")


def _folder_members(root: Path) -> Iterator[Member]:
    for folder, subfolders, files in os.walk(root, onerror=_fail):
        subfolders[:] = [name for name in subfolders if not _is_hidden(name)]
        for name in files + [name for name in subfolders if os.path.islink(os.path.join(folder, name))]:
            path = Path(folder, name)
            status = path.lstat()
            problem = None if stat.S_ISREG(status.st_mode) else "a link or device, not a plain file"
            yield Member(path.relative_to(root).as_posix(), status.st_size, problem, _reader(path.read_bytes))


def _fail(error: OSError) -> None:
    raise error


def _zip_members(archive: zipfile.ZipFile) -> Iterator[Member]:
    for info in archive.infolist():
        if info.is_dir():
            continue
        kind = stat.S_IFMT(info.external_attr >> 16)
        problem = None if kind in (0, stat.S_IFREG) else "a link or device, not a plain file"
        if info.flag_bits & 0x1:
            problem = "encrypted"
        yield Member(info.filename, info.file_size, problem, _reader(partial(archive.read, info)))


def _tar_members(archive: tarfile.TarFile, descriptor: int) -> Iterator[Member]:
    for info in archive:
        if info.isdir():
            continue
        problem = None if info.isreg() and not info.issparse() else "a link, device or sparse file, not a plain file"
        # pread, unlike TarFile.extractfile, may be called from several threads
        yield Member(info.name, info.size, problem, _reader(partial(os.pread, descriptor, info.size, info.offset_data)))


def _reader(read: Callable[[], bytes]) -> Callable[[], bytes]:
    """`read` with the errors of damaged or forbidden files turned into Unusable."""

    def checked() -> bytes:
        try:
            return read()
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
            raise Unusable(f"cannot be read: {error}") from error

    return checked


def _arrange(path: Path, members: list[Member]) -> Source:
    """Sort members into splits and classes by their folders; reject what has no place."""
    source = Source()
    places: list[tuple[list[str], Member]] = []
    for member in members:
        parts = [part for part in member.path.split("/") if part not in ("", ".")]
        if member.path.startswith("/") or ".." in parts:
            source.rejected.append(Rejected(member.path, "its name points outside the source"))
        elif any(_is_hidden(part) for part in parts):
            continue
        elif member.problem:
            source.rejected.append(Rejected(member.path, member.problem))
        else:
            places.append((parts, member))
    depth, splits = _layout(path, [parts for parts, _ in places])
    for parts, member in places:
        folders = parts[depth:-1]
        if splits and folders and folders[0] not in splits:
            continue
        split = splits[folders.pop(0)] if splits and folders else None
        if folders:
            source.entries.append(Entry(split, folders[0], member))
        elif _looks_like_image(parts[-1]):  # a README or a table beside the class folders is no loss
            source.rejected.append(Rejected(member.path, "not inside a class folder"))
    if not source.entries:
        examples = "".join(f"\n  {item.path}: {item.reason}" for item in source.rejected[:5])
        raise PrologueError(f"data.source: {path} holds no class folders with images; see data/README.md{examples}")
    return source


def _layout(path: Path, places: list[list[str]]) -> tuple[int, dict[str, str]]:
    """How many folders wrap everything (0 or 1), and which folder is which split ({} where there are only classes)."""
    depth = 0
    tops = {parts[0] for parts in places if len(parts) > 1}
    if len(tops) == 1 and not tops & {"train", *VAL_FOLDERS}:
        inner = {parts[1] for parts in places if len(parts) > 2}
        if inner:
            depth, tops = 1, inner
    val = next((name for name in VAL_FOLDERS if name in tops), None)
    if "train" in tops:
        return depth, {"train": "train"} | ({val: "val"} if val else {})
    if val and len(tops) == 1:
        raise PrologueError(f"data.source: {path} has {val}/ but no train/")
    return depth, {}


def _looks_like_image(name: str) -> bool:
    return Image.registered_extensions().get(Path(name).suffix.lower()) in EXTENSIONS


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
