"""Writing files so that a reader never sees half of one."""

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from prologue.core.errors import PrologueError

LFS_POINTER = b"version https://git-lfs"
IS_LFS_POINTER = "it is a pointer of Git LFS: run `git lfs pull`"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write a file or folder to; it takes `path`'s place on success.

    On an exception the temporary file or folder is removed and `path` is left as it was.

    Raises:
        PrologueError: a file would take the place of a folder and all that is in it, or a link to a folder is there.
    """
    _check_no_link(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    remove(temporary)
    try:
        yield temporary
        if path.is_dir() and not temporary.is_dir():
            raise PrologueError(f"{path} is a folder, and a file would take its place; give the name of a file")
    except BaseException:
        remove(temporary)
        raise
    if path.is_dir():
        shutil.rmtree(path)
    temporary.replace(path)


def check_writable(path: Path) -> None:
    """Raise PrologueError where no file or folder can be written at `path`: it has no name, or lies in no folder."""
    if path.name in ("", ".."):
        raise PrologueError(f"{path}: give a file or a folder of its own name")
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise PrologueError(f"{path} cannot be written: {above} is no folder that takes files; give another place")


def _check_no_link(path: Path) -> None:
    if path.is_symlink() and path.is_dir():
        raise PrologueError(f"{path} is a link to a folder; give the folder that it leads to")


def check_file(path: Path) -> None:
    """Raise PrologueError where no file can be written at `path`, or a folder lies there."""
    check_writable(path)
    if path.is_dir():
        raise PrologueError(f"{path} is a folder; give the name of a file")


def check_replaceable(folder: Path, own: Collection[str] = ()) -> None:
    """Raise PrologueError where a folder cannot be replaced, or holds files other than `own`, by relative path."""
    check_writable(folder)
    _check_no_link(folder)
    if folder.is_file():
        raise PrologueError(f"{folder} is a file; give a folder")
    found = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if not path.is_dir()]
    if others := [name for name in found if name not in own]:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise PrologueError(f"{folder} holds something else, {others[0]}{more}; give a new folder")


def remove(path: Path) -> None:
    """Remove a file or a folder if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON. Raises ValueError for NaN and infinity, which are no JSON."""
    with replacing(path) as temporary:
        temporary.write_text(json_text(value))


def json_text(value: Any) -> str:
    """What `write_json` writes."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text())


def read_yaml(path: Path) -> Any:
    """Read a YAML file as DVC does, by YAML 1.2, where yes and no are strings. Raises PrologueError if it is none."""
    try:
        return parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise PrologueError(f"{path} is not valid YAML: {error}") from None


def parse_yaml(text: str, source: str) -> Any:
    """The same of the content of a file, which is called `source`."""
    try:
        return YAML(typ="safe").load(text)
    except YAMLError as error:
        raise PrologueError(f"{source} is not valid YAML: {error}") from None


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_lfs_pointer(path: Path) -> bool:
    """Whether Git LFS has left a pointer where the file should be."""
    with path.open("rb") as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER
