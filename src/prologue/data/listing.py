"""The list of a source's files, on disk: sources of millions of files are sorted, split and limited in little memory.

One SQLite file holds every file of the source with its split and class; SQL chooses the images and their order.
"""

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from PIL import Image

from prologue.core.errors import PrologueError
from prologue.data.images import EXTENSIONS
from prologue.data.sources.base import File, Source
from prologue.data.sources.layout import SPLITS, VAL_SPLITS, is_hidden, parts_of, points_outside

ROWS = 10_000  # written at once
FOLDERS = 3  # outermost folders of a path that can tell splits and classes
SCHEMA = """
CREATE TABLE files (
    id INTEGER PRIMARY KEY, path BLOB, size INTEGER, place TEXT, problem TEXT, split TEXT, class TEXT,
    folder0 TEXT, folder1 TEXT, folder2 TEXT, -- the outermost folders of the path
    part INTEGER, key INTEGER -- pseudo-random: of the part that is best read together (else 0), and of the file
);
CREATE TABLE classes (label INTEGER, name TEXT PRIMARY KEY, readable TEXT);
CREATE TABLE chosen (split TEXT, number INTEGER, id INTEGER, PRIMARY KEY (split, number));
"""


@dataclass(frozen=True, slots=True)
class ListedImage:
    """An image of a split: its label, and what its source needs to read it."""

    path: str
    size: int
    place: tuple[int, ...]
    label: int


class Listing:
    """A database of a source's files; see `SCHEMA`."""

    def __init__(self, database: Path) -> None:
        self.connection = sqlite3.connect(database)
        self.connection.execute("PRAGMA journal_mode = OFF")  # a listing that was not finished is made anew
        self.connection.execute("PRAGMA synchronous = OFF")

    def __enter__(self) -> "Listing":
        return self

    def __exit__(self, *error: object) -> None:
        self.connection.close()

    def one(self, query: str, *values: object) -> tuple[int, ...]:
        """The first row of a query."""
        row: tuple[int, ...] = self.connection.execute(query, values).fetchone()
        return row

    def names(self, query: str) -> list[str]:
        """The first column of a query."""
        return [name for (name, *_) in self.connection.execute(query)]

    def count(self, split: str) -> int:
        """Chosen images of a split."""
        return self.one("SELECT COUNT(*) FROM chosen WHERE split = ?", split)[0]

    def images(self, split: str, start: int, stop: int) -> Iterator[ListedImage]:
        """Chosen images of a split from position `start` to before `stop`."""
        rows = self.connection.execute(
            "SELECT path, size, place, label FROM chosen JOIN files USING (id) JOIN classes ON class = name "
            "WHERE chosen.split = ? AND number >= ? AND number < ? ORDER BY number",
            (split, start, stop),
        )
        for path, size, place, label in rows:
            yield ListedImage(os.fsdecode(path), size, tuple(json.loads(place)), label)

    def rejected(self) -> Iterator[tuple[str, str]]:
        """Path and reason of every file that the listing tells cannot be used."""
        for path, problem in self.connection.execute(
            "SELECT path, problem FROM files WHERE problem NOT NULL ORDER BY id"
        ):
            yield os.fsdecode(path), problem


def list_files(listing: Listing, source: Source, seed: int) -> str:
    """Write every file of a source with its split and class into an empty listing; returns a digest of the source.

    Files that no class can claim are left out: hidden ones, folders beside the splits, and files outside class folders
    that are not images by their name. The validation split is the first of val, validation and test.

    Raises:
        PrologueError: the source is damaged, or holds no classes.
    """
    digest = hashlib.sha256()
    listing.connection.executescript(SCHEMA)
    rows = (row for file in source.files() if (row := _row(file, source, seed, digest)) is not None)
    while batch := list(islice(rows, ROWS)):
        listing.connection.executemany(f"INSERT INTO files VALUES (NULL{', ?' * 11})", batch)
    if source.in_folders:
        _read_folders(listing)
    _settle_splits(listing)
    if not listing.one("SELECT COUNT(*) FROM files WHERE class NOT NULL AND problem IS NULL")[0]:
        examples = "".join(f"\n  {path}: {reason}" for path, reason in islice(listing.rejected(), 5))
        raise PrologueError(f"it holds no class folders with images; see data/README.md{examples}")
    listing.connection.commit()
    return digest.hexdigest()


def _row(file: File, source: Source, seed: int, digest: "hashlib._Hash") -> tuple[object, ...] | None:
    """A row of the table `files`; None for a hidden file."""
    path = os.fsencode(file.path)
    digest.update(b"%b\0%d %b\n" % (path, file.size, str(file.place).encode()))
    parts = parts_of(file.path)
    outside = points_outside(file.path)
    if not outside and any(map(is_hidden, parts)):
        return None
    problem = "its name points outside the source" if outside else file.problem
    folders = parts[:-1][:FOLDERS] if source.in_folders and not problem else []
    part = _pseudo_random(seed, str(file.place[0]).encode()) if source.by_part else 0
    place = json.dumps(file.place)
    names: list[str | None] = [name.encode("utf-8", "replace").decode() for name in folders]
    names += [None] * (FOLDERS - len(names))
    split, class_name = file.split, file.class_name
    return path, file.size, place, problem, split, class_name, *names, part, _pseudo_random(seed, path)


def _pseudo_random(seed: int, name: bytes) -> int:
    """A 64-bit number that follows from the seed and a name."""
    return int.from_bytes(hashlib.sha256(b"%d:%b" % (seed, name)).digest()[:8], "big", signed=True)


def _read_folders(listing: Listing) -> None:
    """Splits and classes of files from their folders: splits outside, classes inside, one folder may wrap all."""
    tops = listing.names("SELECT DISTINCT folder0 FROM files WHERE folder0 NOT NULL")
    depth = 0
    if len(tops) == 1 and tops[0] not in SPLITS:
        inner = listing.names("SELECT DISTINCT folder1 FROM files WHERE folder1 NOT NULL")
        depth, tops = (1, inner) if inner else (0, tops)
    if "train" in tops or (len(tops) == 1 and tops[0] in VAL_SPLITS):
        split, class_name = f"folder{depth}", f"folder{depth + 1}"
        listing.connection.execute(f"UPDATE files SET split = {split}, class = {class_name} WHERE problem IS NULL")
        beside = ", ".join(f"'{name}'" for name in SPLITS)
        listing.connection.execute(
            f"DELETE FROM files WHERE problem IS NULL AND {split} NOT NULL AND {split} NOT IN ({beside})"
        )
    else:
        listing.connection.execute(f"UPDATE files SET class = folder{depth} WHERE problem IS NULL")
    loose = "problem IS NULL AND class IS NULL"
    listing.connection.create_function("looks_like_image", 1, _looks_like_image, deterministic=True)
    listing.connection.execute(f"DELETE FROM files WHERE {loose} AND NOT looks_like_image(path)")
    listing.connection.execute(f"UPDATE files SET problem = 'not inside a class folder' WHERE {loose}")


def _looks_like_image(path: bytes) -> bool:
    return Image.registered_extensions().get(os.path.splitext(os.fsdecode(path))[1].lower()) in EXTENSIONS


def _settle_splits(listing: Listing) -> None:
    """Keep train and one validation split, under the name val."""
    present = set(listing.names("SELECT DISTINCT split FROM files WHERE split NOT NULL"))
    val = next((name for name in VAL_SPLITS if name in present), None)
    if val and "train" not in present and not listing.one("SELECT COUNT(*) FROM files WHERE split IS NULL")[0]:
        raise PrologueError(f"it has {val}/ but no train/")
    for name in present - {"train", val}:
        listing.connection.execute("DELETE FROM files WHERE split = ?", (name,))
    if val:
        listing.connection.execute("UPDATE files SET split = 'val' WHERE split = ?", (val,))
