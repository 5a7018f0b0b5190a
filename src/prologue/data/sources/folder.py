"""A folder of files."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from prologue.data.sources.base import File, Source, Unusable


class FolderSource(Source):
    """Files below a folder; links are listed as a problem, never followed."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root

    def files(self) -> Iterator[File]:
        for folder, subfolders, names in os.walk(self._root, onerror=_fail):
            subfolders.sort()
            linked = [name for name in subfolders if os.path.islink(os.path.join(folder, name))]
            for name in sorted(names + linked):
                path = os.path.join(folder, name)
                status = os.lstat(path)
                problem = None if stat.S_ISREG(status.st_mode) else "a link or device, not a plain file"
                yield File(os.path.relpath(path, self._root), status.st_size, (status.st_mtime_ns,), problem)

    def read(self, path: str, size: int, place: tuple[int, ...]) -> bytes:
        try:
            descriptor = os.open(self._root / path, os.O_RDONLY | os.O_NOFOLLOW)
            with open(descriptor, "rb") as file:
                return file.read()
        except OSError as error:
            raise Unusable(f"cannot be read: {error.strerror}") from error


def _fail(error: OSError) -> None:
    raise error
