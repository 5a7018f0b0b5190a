"""What the pipeline depends on in place of `data.source` itself: a digest of its files, made anew by every run.

DVC would read every byte of a source, and give up at a link that leads nowhere or a name that is no UTF-8.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prologue.core.errors import PrologueError
from prologue.core.files import sha256, write_json
from prologue.core.params import DataParams
from prologue.core.project import project_folder
from prologue.data.sources.base import File
from prologue.data.sources.folder import FolderSource

SMALL = 256 * 2**20  # bytes of a source that is always compared by content: that takes half a second


def locate(source: Path) -> Path:
    """Where a source lies. A relative one is the project's own, also for an experiment that DVC runs in a copy.

    Raises:
        PrologueError: it is not there.
    """
    path = project_folder() / source
    if not path.exists():
        raise PrologueError(f"data.source: {source} not found; data/README.md says what can be named")
    return path


def write_fingerprint(data: DataParams, output: Path) -> dict[str, Any]:
    """Write what `fingerprint` says to the JSON file `output`; returns no metrics.

    Raises:
        PrologueError: the source is not there, or cannot be read.
    """
    write_json(output, fingerprint(data))
    return {}


def fingerprint(data: DataParams) -> dict[str, Any]:
    """Digest of a source's files, how many there are, their bytes, and what was compared.

    By content where it is small or data.hash_content is set; else by names, sizes and times, which takes seconds for a
    million files.

    Raises:
        PrologueError: the source is not there, or cannot be read.
    """
    source = locate(data.source)
    try:
        digest, count, size = hashlib.sha256(), 0, 0
        for file in _files(source):  # twice where content counts: a list of millions of files is not held in memory
            count, size = count + 1, size + file.size
            digest.update(os.fsencode(file.path) + b"\0" + _outside(file))
        by_content = data.hash_content or size <= SMALL
        if by_content:
            digest = hashlib.sha256()
            for file in _files(source):
                digest.update(os.fsencode(file.path) + b"\0" + _inside(file, source))
    except OSError as error:
        raise PrologueError(f"data.source: {source} cannot be read: {error}") from None
    compared = "content" if by_content else "names, sizes and times"
    return {"compared": compared, "files": count, "bytes": size, "sha256": digest.hexdigest()}


def _files(source: Path) -> Iterator[File]:
    if source.is_dir():
        yield from FolderSource(source).files()
    else:
        status = source.stat()
        yield File("", status.st_size, (status.st_mtime_ns,))


def _inside(file: File, source: Path) -> bytes:
    """Digest of a file's content; what is known from outside where it cannot be read, which `shards` tells of."""
    try:
        return _outside(file) if file.problem else bytes.fromhex(sha256(source / file.path))
    except PermissionError:
        return _outside(file)


def _outside(file: File) -> bytes:
    """What is known of a file unopened."""
    return f"{file.size} {file.place} {file.problem}\0".encode()
