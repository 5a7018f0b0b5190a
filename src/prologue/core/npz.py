"""Arrays of an npz file, read in part: it may hold gigabytes. Nothing is unpickled."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import IO, NamedTuple

import numpy as np
from numpy.lib import format as npy

DAMAGED = (  # what reading one may raise
    OSError,
    EOFError,
    ValueError,
    KeyError,
    zipfile.BadZipFile,
    zlib.error,
    TokenError,  # of NumPy, which reads an array's header as Python
)


class Header(NamedTuple):
    """What stands before an array's data, and where the data begin in the member."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[np.generic]
    offset: int


def array_names(path: Path) -> list[str]:
    """Names of the arrays of an npz, in the file's order; those of the members of any other zip."""
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


@contextmanager
def opened_array(file: Path | IO[bytes], key: str) -> Iterator[tuple[IO[bytes], Header]]:
    """An array's member of an npz, to seek and read in, and its header."""
    with zipfile.ZipFile(file) as archive, archive.open(f"{key}.npy") as member:
        version = npy.read_magic(member)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        yield member, Header(*read_header(member), member.tell())
