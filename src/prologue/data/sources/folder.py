"""A folder of files."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from prologue.data.sources.base import File, Source, Unusable
from prologue.data.sources.layout import SIGNATURE_BYTES, is_system


class FolderSource(Source):
    """Files below a folder. Links to files and folders are followed wherever they lead, but never in a circle."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root

    def files(self) -> Iterator[File]:
        status = self._root.stat()
        yield from self._below("", {(status.st_dev, status.st_ino)})

    def _below(self, folder: str, around: set[tuple[int, int]]) -> Iterator[File]:
        """Files below a folder, those beside its folders first; `around`: this folder and those that it lies in."""
        try:
            with os.scandir(self._root / folder) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            if not any(map(is_system, PurePosixPath(folder).parts)):  # a class would be missing
                raise
            yield File(folder, 0, (), f"a folder that cannot be read: {error.strerror}")
            return
        folders = []
        for entry in listed:
            path = f"{folder}/{entry.name}" if folder else entry.name
            try:
                status = entry.stat()
            except OSError as error:
                what = "a link that leads nowhere" if entry.is_symlink() else "cannot be looked at"
                yield File(path, 0, (), f"{what}: {error.strerror}")
                continue
            identity = (status.st_dev, status.st_ino)
            if stat.S_ISDIR(status.st_mode):
                if entry.is_symlink() and identity in around:
                    yield File(path, 0, (), "a link to a folder around it")
                else:
                    folders.append((path, identity))
            else:
                problem = None if stat.S_ISREG(status.st_mode) else "a device or pipe, not a plain file"
                yield File(path, status.st_size, (status.st_mtime_ns,), problem)
        for path, identity in folders:
            yield from self._below(path, around | {identity})

    def read(self, path: str, size: int, place: tuple[int, ...]) -> bytes:
        return self._content(path)

    def start(self, file: File) -> bytes:
        return self._content(file.path, SIGNATURE_BYTES)

    def _content(self, path: str, size: int = -1) -> bytes:
        try:
            with (self._root / path).open("rb") as file:
                return file.read(size)
        except OSError as error:
            raise Unusable(f"cannot be read: {error.strerror}") from error
