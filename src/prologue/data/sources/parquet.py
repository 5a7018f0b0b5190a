"""Parquet files with image bytes and labels, as the Hugging Face hub holds image datasets."""

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from prologue.core.errors import PrologueError
from prologue.data.sources.base import File, Source, Unusable
from prologue.data.sources.layout import split_of

IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "labels", "fine_label")


class ParquetSource(Source):
    """Rows of Parquet files: an image column of {bytes, path} or of bytes, and a column of labels, numbers or names.

    The split follows from a file's name (train-00000-of-00002.parquet) or folder, the class names from the features
    that the `datasets` library writes into the files.
    """

    in_folders = False
    by_part = True  # a row is read with all of its row group

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
        self._root = path if path.is_dir() else path.parent
        schema = self._open(self._files[0]).schema_arrow
        self._image = self._column(schema, IMAGE_COLUMNS, "images")
        self._label = self._column(schema, LABEL_COLUMNS, "labels")
        names = _class_names(schema, self._label)
        self.classes = [str(label) for label in range(len(names))] if names else None
        self.readable = {str(label): name for label, name in enumerate(names or [])}
        self._group = lru_cache(maxsize=2)(self._read_group)

    def files(self) -> Iterator[File]:
        for number, path in enumerate(self._files):
            name = path.relative_to(self._root).as_posix()
            split = split_of(name)
            table = self._open(path)
            for group in range(table.num_row_groups):
                labels = table.read_row_group(group, [self._label])[self._label].to_pylist()
                for row, label in enumerate(labels):
                    problem = "it has no label" if label is None or label == -1 else None
                    place = (number * 2**20 + group, row)
                    yield File(f"{name}#{group}/{row}", 0, place, problem, split, str(label))

    def read(self, path: str, size: int, place: tuple[int, ...]) -> bytes:
        try:
            value = self._group(place[0])[place[1]].as_py()
        except (OSError, pyarrow.ArrowException) as error:
            raise Unusable(f"cannot be read: {error}") from error
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise Unusable("the row holds no image bytes")
        return data

    def _read_group(self, part: int) -> Any:
        number, group = divmod(part, 2**20)
        return self._open(self._files[number]).read_row_group(group, [self._image])[self._image]

    def _open(self, path: Path) -> Any:
        try:
            return parquet.ParquetFile(path)
        except (OSError, pyarrow.ArrowException) as error:
            raise PrologueError(f"{path} is no Parquet file, or damaged: {error}") from None

    def _column(self, schema: Any, names: tuple[str, ...], what: str) -> str:
        found = [name for name in names if name in schema.names]
        if not found:
            raise PrologueError(
                f"{self._files[0]} has no column of {what} ({' or '.join(names)}); "
                f"its columns are {', '.join(schema.names)}"
            )
        return found[0]


def _class_names(schema: Any, label: str) -> list[str] | None:
    """Names of the classes from the metadata of the `datasets` library; None where there are none."""
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    names = metadata.get("info", {}).get("features", {}).get(label, {}).get("names")
    return list(names) if isinstance(names, list) else None
