"""Parquet files with image bytes and labels, as the Hugging Face hub holds image datasets."""

import json
import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet, types

from prologue.core.errors import PrologueError
from prologue.core.files import IS_LFS_POINTER, is_lfs_pointer
from prologue.data.sources.base import File, Source, Unusable
from prologue.data.sources.layout import TRAIN, WORDS, parts_of_files, words_of

IMAGE_COLUMNS = ("image", "img", "images", "jpg", "png", "webp")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target", "cls", "category", "class_name")
SPLIT_COLUMN = "split"
NAMED = 3  # files in a message


class ParquetSource(Source):
    """Rows of Parquet files: an image column of {bytes, path} or of bytes, and a column of labels, numbers or names.

    The part follows from a column `split`, else from a file's name (train-00000-of-00002.parquet) or folder, the class
    names from the features that the `datasets` library writes into the files.
    """

    in_folders = False
    by_place = True  # a row is read with all of its row group
    unlabelled = "it has no label"

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._root = path if path.is_dir() else path.parent
        files = _parquet_files(path)
        schemas = {file: _open(file).schema_arrow for file in files}
        self._files = [file for file in files if _column(schemas[file], IMAGE_COLUMNS)]
        if not self._files:
            columns = ", ".join(schemas[files[0]].names)
            raise PrologueError(
                f"{files[0]} has no column of images ({' or '.join(IMAGE_COLUMNS)}); its columns are {columns}"
            )
        for file in files:
            if file not in self._files:
                self.left_aside.append((self._name(file), 0, "no column of images"))
        self._refuse_versions()
        self._image = {file: _column(schemas[file], IMAGE_COLUMNS) or "" for file in self._files}
        self._label = {file: _label_column(file, schemas[file]) for file in self._files}
        self._part = self._parts(schemas)
        names = self._class_names(schemas)
        self.classes = [str(label) for label in range(len(names))] if names else None
        self.readable = {str(label): name for label, name in enumerate(names or [])}
        self._group = lru_cache(maxsize=2)(self._read_group)

    def _name(self, file: Path) -> str:
        return file.relative_to(self._root).as_posix()

    def _refuse_versions(self) -> None:
        """Raise PrologueError where files lie in several folders beside those of parts: versions of one data set."""
        folders = {"/".join(part for part in file.parts[len(self._root.parts) : -1]) for file in self._files}
        versions = {
            "/".join(name for name in folder.split("/") if not set(words_of(name)) & WORDS.keys()) for folder in folders
        }
        if len(versions) > 1:
            raise PrologueError(
                f"its Parquet files lie in several folders, {', '.join(sorted(name or '.' for name in versions))}, as "
                f"versions of one data set do; name one, as in data.source={self._root / max(versions)}"
            )

    def _parts(self, schemas: dict[Path, Any]) -> dict[Path, str | None]:
        """The part of each file; those with a column `split` have none of their own. Raises PrologueError."""
        own = [file for file in self._files if SPLIT_COLUMN not in schemas[file].names]
        found = parts_of_files([self._name(file) for file in own])
        parts = {file: found.get(self._name(file)) for file in self._files}
        unknown = [file for file in own if parts[file] is None]
        if unknown and len(unknown) < len(self._files):
            what = ", ".join(
                self._name(file) + ("" if self._label[file] else ", which has no column of labels")
                for file in unknown[:NAMED]
            )
            raise PrologueError(
                f"{what}: of no known part beside files of parts; move it, or name it train, val or test"
            )
        for file in self._files:
            if self._label[file] is None and parts[file] in (None, TRAIN):
                raise PrologueError(
                    f"{self._name(file)} has no column of labels ({' or '.join(LABEL_COLUMNS)}); its columns are "
                    f"{', '.join(schemas[file].names)}"
                )
        for part in set(filter(None, parts.values())):
            names = [self._name(file) for file in self._files if parts[file] == part]
            rest = len(names) - NAMED
            self.named_parts[part] = ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")
        return parts

    def _class_names(self, schemas: dict[Path, Any]) -> list[str] | None:
        """Names of the classes, which are those of all files. Raises PrologueError where files disagree."""
        told = {file: names for file in self._files if (names := _class_names(schemas[file], self._label[file]))}
        if len({tuple(names) for names in told.values()}) > 1:
            raise PrologueError(f"{' and '.join(map(self._name, list(told)[:2]))} have other names for the same labels")
        return next(iter(told.values()), None)

    def files(self) -> Iterator[File]:
        for number, path in enumerate(self._files):
            name, label, table = self._name(path), self._label[path], _open(path)
            has_split = SPLIT_COLUMN in table.schema_arrow.names
            columns = [*filter(None, [label]), *([SPLIT_COLUMN] if has_split else [])]
            for group in range(table.num_row_groups):
                rows = self._read_columns(path, table, group, columns)
                for row in range(table.metadata.row_group(group).num_rows):
                    class_name = _class_of(rows[label][row]) if label else None
                    part, problem = self._part[path], None
                    if self.classes and class_name is not None and class_name not in self.readable:
                        problem = f"its label is {class_name}, and the file names {len(self.classes)} classes"
                    if has_split:
                        part, problem = self._told_part(rows[SPLIT_COLUMN][row], name, problem)
                    yield File(f"{name}#{group}/{row}", 0, (number * 2**20 + group, row), problem, part, class_name)

    def _told_part(self, word: object, name: str, problem: str | None) -> tuple[str | None, str | None]:
        """The part that a row says it is of; with its problem, or that it says none."""
        part = WORDS.get(str(word).lower())
        if part is None:
            return TRAIN, f"its {SPLIT_COLUMN} is {word}, which is no known part"
        self.named_parts.setdefault(part, f"rows of {name} whose {SPLIT_COLUMN} is {word}")
        return part, problem

    def _read_columns(self, path: Path, table: Any, group: int, columns: list[str]) -> dict[str, list[Any]]:
        if not columns:
            return {}
        try:
            content: dict[str, list[Any]] = table.read_row_group(group, columns).to_pydict()
        except (OSError, pyarrow.ArrowException, ValueError) as error:
            raise PrologueError(f"{path} is damaged in its row group {group}: {error}") from None
        return content

    def read(self, path: str, size: int, place: tuple[int, ...]) -> bytes:
        try:
            value = self._group(place[0])[place[1]].as_py()
        except (OSError, pyarrow.ArrowException) as error:
            raise Unusable(f"cannot be read: {error}") from error
        data = value.get("bytes") if isinstance(value, dict) else value
        if isinstance(data, bytes):
            return data
        elsewhere = value.get("path") if isinstance(value, dict) else value
        if isinstance(elsewhere, str):
            raise Unusable(f"the row holds no image bytes but a path, {elsewhere}")
        raise Unusable("the row holds no image bytes")

    def _read_group(self, part: int) -> Any:
        number, group = divmod(part, 2**20)
        column = self._image[self._files[number]]
        return _open(self._files[number]).read_row_group(group, [column])[column]


def has_images(path: Path) -> bool:
    """Whether a folder holds Parquet files of which one has images, or is damaged, which is said where it is read."""
    try:
        return any(_column(_open(file).schema_arrow, IMAGE_COLUMNS) for file in _parquet_files(path))
    except PrologueError:
        return True


def _parquet_files(path: Path) -> list[Path]:
    found = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    return [file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts)]


def _open(path: Path) -> Any:
    try:
        return parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        why = IS_LFS_POINTER if path.is_file() and is_lfs_pointer(path) else str(error)
        raise PrologueError(f"{path} is no Parquet file, or damaged: {why}") from None


def _column(schema: Any, names: tuple[str, ...]) -> str | None:
    """The first of some columns that a file has."""
    return next((name for name in names if name in schema.names), None)


def _label_column(file: Path, schema: Any) -> str | None:
    """The column of labels; None where there is none. Raises PrologueError for one of lists."""
    name = _column(schema, LABEL_COLUMNS)
    if name is None:
        return None
    kind = schema.field(name).type
    if types.is_nested(kind):
        raise PrologueError(
            f"{file}: its column {name} holds {kind}; lists of labels are not read, an image has one class"
        )
    return name


def _features(schema: Any) -> dict[str, Any]:
    """What the `datasets` library wrote of the columns; nothing where it did not, or it cannot be read."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def _class_names(schema: Any, label: str | None) -> list[str] | None:
    """Names of the classes from the metadata of the `datasets` library; None where there are none."""
    feature = _features(schema).get(label or "", {})
    names = feature.get("names") if isinstance(feature, dict) else None
    return list(map(str, names)) if isinstance(names, list) else None


def _class_of(label: object) -> str | None:
    """The class that a label says: whole numbers without a point; None for none, which is -1 on the hub, or NaN."""
    if label is None or label == -1 or (isinstance(label, float) and math.isnan(label)):
        return None
    if isinstance(label, float) and label.is_integer():
        return str(int(label))
    if isinstance(label, bytes):
        label = label.decode("utf-8", "replace")
    return str(label) or None
