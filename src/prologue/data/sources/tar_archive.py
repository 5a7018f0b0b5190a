"""Tar archives, read in place by offset: of class folders, or of other tars (as ILSVRC2012_img_train.tar)."""

import os
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from prologue.core.errors import PrologueError
from prologue.data.sources.base import File, Source, Unusable
from prologue.data.sources.layout import SIGNATURE_BYTES

PADDING = 2**20  # bytes of zeros at the end of a tar, at most: programs fill up blocks


class TarSource(Source):
    """Files of an uncompressed tar."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._file = path.open("rb")

    def files(self) -> Iterator[File]:
        yield from tar_files(self._path)

    def read(self, path: str, size: int, place: tuple[int, ...]) -> bytes:
        return read_span(self._file.fileno(), place[1], size)

    def start(self, file: File) -> bytes:
        return read_span(self._file.fileno(), file.place[1], min(file.size, SIGNATURE_BYTES))


def is_tar(path: Path) -> bool:
    """Whether a file begins as uncompressed tars do."""
    try:
        with tarfile.open(path, "r:"):
            return True
    except tarfile.ReadError:
        return False


def tar_files(path: Path, part: int = 0, start: int = 0, size: int | None = None) -> Iterator[File]:
    """The files of a tar, or of a tar that lies at `start` in another file; place is (part, offset in the file).

    A hard link is the file that it links to; these come last. Raises PrologueError where the tar is damaged.
    """
    links: dict[str, str] = {}
    for info, offset in _members(path, start, size):
        if info.islnk():
            links[info.name] = info.linkname
        elif not info.isdir():
            plain = info.isreg() and not info.issparse()
            problem = None if plain else "a link, device or sparse file, not a plain file"
            yield File(info.name, info.size, (part, offset), problem)
    if links:
        wanted = set(links.values())
        found = {i.name: (i.size, at) for i, at in _members(path, start, size) if i.isreg() and i.name in wanted}
        for name, target in links.items():
            own, offset = found.get(target, (0, 0))
            yield File(name, own, (part, offset), None if target in found else f"a link to {target}, which is missing")


def _members(path: Path, start: int, size: int | None) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """Every member of a tar, with the offset of its content in the file. Raises PrologueError as `tar_files`."""
    end = path.stat().st_size if size is None else start + size
    with path.open("rb") as file:
        file.seek(start)
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for info in archive:
                    archive.members.clear()  # type: ignore[attr-defined]  # it would keep every member
                    if archive.offset > end:
                        break
                    yield info, info.offset_data
                _check_end(file, archive.offset, end, path)
        except tarfile.TarError as error:
            raise PrologueError(f"{path} is damaged at byte {file.tell()}: {error}") from None


def _check_end(file: BinaryIO, offset: int, end: int, path: Path) -> None:
    """Raise PrologueError where a tar does not end at `offset`, as `tarfile` takes any damage there for its end."""
    file.seek(offset)
    rest = file.read(min(max(0, end - offset), PADDING + 1))
    if len(rest) < tarfile.BLOCKSIZE or len(rest) > PADDING or any(rest):
        raise PrologueError(f"{path} is damaged or incomplete: from byte {offset} of {end} on it is no tar")


def nested_files(path: Path, part: int = 0) -> Iterator[File]:
    """The files of a tar of tars: each under a folder with its inner tar's name."""
    for outer in tar_files(path, part):
        if outer.problem is None and outer.path.endswith(".tar"):
            folder = Path(outer.path).stem
            for inner in tar_files(path, part, outer.place[1], outer.size):
                yield replace(inner, path=f"{folder}/{inner.path}")


def read_span(descriptor: int, offset: int, size: int) -> bytes:
    """Bytes of an open file; may be called from several processes. Raises Unusable where the file is shorter."""
    try:
        data = os.pread(descriptor, size, offset)
    except OSError as error:
        raise Unusable(f"cannot be read: {error.strerror}") from error
    if len(data) != size:
        raise Unusable("the tar ends before it does")
    return data
