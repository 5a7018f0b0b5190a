"""The list of a source's files, on disk: sources of millions of files are sorted, split and limited in little memory.

One SQLite file holds every image of the source with its split and class; SQL chooses the images and their order. What
becomes of everything else is noted beside them, for the manifest and the screen.
"""

import hashlib
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath

from prologue.core.errors import PrologueError
from prologue.data.folders import Folder, Layout, read_layout
from prologue.data.sources.base import File, Source
from prologue.data.sources.images import why_ignored
from prologue.data.sources.layout import (
    TEST,
    TRAIN,
    VALIDATION,
    folders_and_name,
    points_outside,
)
from prologue.data.sources.tables import TABLES, Labels, read_tables

ROWS = 10_000  # written at once
DEEPEST = 100  # folders around a file; an archive may name thousands, which no file system has
SCHEMA = """
CREATE TABLE files (
    id INTEGER PRIMARY KEY, path BLOB, size INTEGER, place TEXT, problem TEXT, split TEXT, class TEXT,
    folder INTEGER, -- number of the folder that it lies in
    bundle INTEGER, key INTEGER -- pseudo-random: of what is best read together (else 0), and of the file
);
CREATE TABLE folders (id INTEGER PRIMARY KEY, split TEXT, class TEXT);
CREATE TABLE classes (label INTEGER, name TEXT PRIMARY KEY, readable TEXT);
CREATE TABLE chosen (split TEXT, number INTEGER, id INTEGER, PRIMARY KEY (split, number));
CREATE TABLE notes (kind TEXT, name TEXT, count INTEGER, reason TEXT);
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

    def note(self, kind: str, name: str, count: int, reason: str) -> None:
        """Note what became of something: a part, what is left aside or ignored, what was held out, a warning."""
        self.connection.execute("INSERT INTO notes VALUES (?, ?, ?, ?)", (kind, _clean(name), count, _clean(reason)))

    def notes(self, kind: str) -> list[tuple[str, int, str]]:
        """Name, count and reason of the notes of a kind, in the order in which they were made."""
        query = "SELECT name, count, reason FROM notes WHERE kind = ? ORDER BY rowid"
        return self.connection.execute(query, (kind,)).fetchall()


def list_files(listing: Listing, source: Source, seed: int) -> None:
    """Write every image of a source with its split and class into an empty listing.

    The system's files and those that are no images by their names are counted; parts and classes follow from folders
    where the source has no other word for them. A part that has no images with a class validates nothing.

    Raises:
        PrologueError: the source is damaged, its parts are ambiguous, or it holds no classes.
    """
    listing.connection.executescript(SCHEMA)
    reader = _Reader(source, seed)
    rows = (row for file in source.files() if (row := reader.row(file)) is not None)
    while batch := list(islice(rows, ROWS)):
        listing.connection.executemany(f"INSERT INTO files VALUES (NULL{', ?' * 9})", batch)
    if source.in_folders:
        _read_folders(listing, source, reader)
    for name, count, reason in source.left_aside:
        listing.note("aside", name, count, reason)
    _settle_parts(listing, source)
    if not listing.one("SELECT COUNT(*) FROM files WHERE class NOT NULL AND problem IS NULL")[0]:
        examples = "".join(f"\n  {path}: {reason}" for path, reason in islice(listing.rejected(), 5))
        flat = listing.one("SELECT COUNT(*) FROM files WHERE problem = ?", Source.unlabelled)[0]
        hint = f"; {flat} images are in no class folder: a folder around them makes them one class" if flat else ""
        raise PrologueError(f"it holds no class folders with images{hint}; see data/README.md{examples}")
    listing.connection.commit()


@dataclass
class _Reader:
    """Turns the files of a source into rows, and keeps what is said of the others."""

    source: Source
    seed: int
    root: Folder = field(default_factory=Folder)
    numbers: dict[str, int] = field(default_factory=dict)  # of folders with images
    spellings: dict[str, set[str]] = field(default_factory=dict)  # of the same folder, as Unicode has several
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)  # of what is ignored, by reason and name
    first: dict[tuple[str, str], str] = field(default_factory=dict)  # path of the same
    tables: list[File] = field(default_factory=list)

    def row(self, file: File) -> tuple[object, ...] | None:
        """A row of the table `files`; None for what is none of the user's images."""
        path = os.fsencode(file.path)
        problem, number = file.problem, None
        if points_outside(file.path):
            problem = "its name points outside the source"
        elif file.path.count("/") > DEEPEST:
            problem = f"it lies in more than {DEEPEST} folders"
        elif self.source.in_folders:
            folders = folders_and_name(file.path)
            if not self._is_image(file, folders):
                return None
            if problem is None:
                number = self._number(file.path, folders[:-1])
        bundle = _pseudo_random(self.seed, str(file.place[0]).encode()) if self.source.by_place else 0
        name = None if file.class_name is None else _clean(file.class_name)
        place, key = json.dumps(file.place), _pseudo_random(self.seed, path)
        return path, file.size, place, problem, file.part, name, number, bundle, key

    def _is_image(self, file: File, folders: list[str]) -> bool:
        """Whether a file is one of the user's images; what is none is counted."""
        why = why_ignored(self.source, file)
        if why is None:
            return True
        self.counts[why] += 1
        self.first.setdefault(why, file.path)
        if why[0] == "no image":
            self.root.at(folders[:-1]).others += 1
            if folders[-1] in TABLES:
                self.tables.append(file)
        return False

    def _number(self, path: str, folders: list[str]) -> int:
        """The number of the folder of an image, which is counted there."""
        folder = self.root.at(folders)
        folder.images += 1
        if folder.path and not path.isascii():
            raw = "/".join(part for part in path.split("/")[:-1] if part not in ("", "."))
            self.spellings.setdefault(folder.path, set()).add(raw)
        return self.numbers.setdefault(folder.path, len(self.numbers))


def _clean(text: str) -> str:
    """A text as SQLite and JSON can hold it: bytes that are no UTF-8 become question marks."""
    return text.encode("utf-8", "replace").decode()


def _pseudo_random(seed: int, name: bytes) -> int:
    """A 64-bit number that follows from the seed and a name."""
    return int.from_bytes(hashlib.sha256(b"%d:%b" % (seed, name)).digest()[:8], "big", signed=True)


def _read_folders(listing: Listing, source: Source, reader: _Reader) -> None:
    """Parts and classes of images from their folders; of those that lie in none, from tables of labels beside them."""
    layout = read_layout(reader.root)
    source.named_parts = {part: f"{folder.path}/" for part, folder in layout.parts.items()}
    rows = [
        (number, part, None if name is None else _clean(name))
        for path, number in reader.numbers.items()
        for part, name in [layout.classes[path]]
    ]
    listing.connection.executemany("INSERT INTO folders VALUES (?, ?, ?)", rows)
    listing.connection.execute(
        "UPDATE files SET split = folders.split, class = folders.class FROM folders WHERE files.folder = folders.id"
    )
    labels = read_tables(source, reader.tables)
    source.readable |= labels.readable
    if labels.of_image:
        source.unlabelled = f"in no class folder, and {', '.join(labels.tables)} has no label for it"
        _label_by_tables(listing, labels)
    _note_folders(listing, layout, reader)


def _label_by_tables(listing: Listing, labels: Labels) -> None:
    """Give images of a part that lie in no class folder the class that a table says."""
    listing.connection.create_function(
        "label_of", 1, lambda path: labels.of_image.get(PurePosixPath(os.fsdecode(path)).stem), deterministic=True
    )
    labelled = listing.connection.execute(
        "UPDATE files SET class = label_of(path) WHERE class IS NULL AND problem IS NULL AND split NOT NULL "
        "AND label_of(path) NOT NULL"
    ).rowcount
    if labelled:
        told = ", ".join(labels.tables)
        listing.note("warning", "", 0, f"{labelled} images in no class folder have the classes that {told} says")


def _note_folders(listing: Listing, layout: Layout, reader: _Reader) -> None:
    for folder in layout.no_class:
        if folder.all_others:
            listing.note("aside", f"{folder.path}/", folder.all_others, "no class, since no image is in it")
    for warning in layout.warnings:
        listing.note("warning", "", 0, warning)
    for spelled in reader.spellings.values():
        if len(spelled) > 1:
            names = ", ".join(map(ascii, sorted(spelled)))
            listing.note("warning", "", 0, f"{names} are one name in Unicode, so that they are one folder")
    for (reason, name), count in sorted(reader.counts.items()):
        first = reader.first[reason, name]
        listing.note("ignored", f"{name} ({first})" if reason == "no image" else name, count, reason)


def _settle_parts(listing: Listing, source: Source) -> None:
    """Keep the training images and one part to validate on, as train and val; note what becomes of each part."""
    counts = {
        part: (usable, every)
        for part, usable, every in listing.connection.execute(
            "SELECT split, SUM(class NOT NULL AND problem IS NULL), COUNT(*) FROM files WHERE split NOT NULL "
            "GROUP BY split"
        )
    }
    candidates = [part for part in (VALIDATION, TEST) if counts.get(part, (0, 0))[0]]
    validating = candidates[0] if candidates else None
    if validating and not counts.get(TRAIN, (0, 0))[0]:
        raise PrologueError(
            f"it has {source.named_parts.get(validating, validating)} but no train/ with images of classes"
        )
    for part, (usable, every) in counts.items():
        name = source.named_parts.get(part, part)
        if part in (TRAIN, validating):
            listing.note("part", name, every, "train" if part == TRAIN else "val")
            continue
        reason = f"not used, since {source.named_parts.get(validating or '', validating)} validates"
        listing.note("aside", name, every, reason if usable else _why_unusable(listing, part))
        listing.connection.execute("DELETE FROM files WHERE split = ?", (part,))
    listing.connection.execute(
        "UPDATE files SET problem = ? WHERE class IS NULL AND problem IS NULL", (source.unlabelled,)
    )
    listing.connection.execute("UPDATE files SET split = 'val' WHERE split = ?", (validating,))


def _why_unusable(listing: Listing, part: str) -> str:
    """Why no image of a part has a class."""
    query = "SELECT problem FROM files WHERE split = ? GROUP BY problem ORDER BY COUNT(*) DESC LIMIT 1"
    problem = listing.connection.execute(query, (part,)).fetchone()[0]
    return f"images without a class{f': {problem}' if problem else ''}; it validates nothing"
