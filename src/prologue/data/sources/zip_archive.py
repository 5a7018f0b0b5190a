"""A zip archive, listed without holding its directory in memory: the zip of ImageNet has 1.5 million entries.

Python's zipfile keeps every entry; here the central directory is read as a stream, and an entry by its offset.
"""

import os
import stat
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from prologue.core.errors import PrologueError
from prologue.data.sources.base import File, Source, Unusable

END = struct.Struct("<4s4H2LH")  # end of central directory
END64_LOCATOR, END64 = struct.Struct("<4sLQL"), struct.Struct("<4sQ2H2L4Q")
CENTRAL, LOCAL = struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s5H3L2H")
END_SIGN, LOCATOR_SIGN, END64_SIGN = b"PK\x05\x06", b"PK\x06\x07", b"PK\x06\x06"
CENTRAL_SIGN, LOCAL_SIGN = b"PK\x01\x02", b"PK\x03\x04"
LONGEST_COMMENT = 2**16
FULL_16, FULL_32 = 0xFFFF, 0xFFFFFFFF  # the value stands in the zip64 field
ENCRYPTED, UTF8 = 0x1, 0x800
STORED, DEFLATED = 0, 8
WRAPS = 2**16  # entries: programs without zip64 count them modulo that
SLACK = 1024  # bytes by which deflated content may be the larger one


class ZipSource(Source):
    """Files of a zip archive with stored or deflated entries, zip64 included."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._file = path.open("rb")

    def files(self) -> Iterator[File]:
        with self._path.open("rb") as file:
            start, size, count, before = _central_directory(file, self._path)
            file.seek(start)
            entries = 0
            while file.tell() < start + size:
                entries += 1
                entry = _read_entry(file, self._path, before)
                if entry is not None:
                    yield entry
            if file.tell() != start + size or (entries - count) % WRAPS:
                raise PrologueError(f"the directory of {self._path} is damaged: it has {entries} files for {count}")

    def read(self, path: str, size: int, place: tuple[int, ...]) -> bytes:
        _, offset, compressed, method, checksum = place
        descriptor = self._file.fileno()
        if compressed > 2 * size + SLACK:
            raise Unusable("its sizes in the zip are damaged")
        try:
            header = os.pread(descriptor, LOCAL.size, offset)
            if len(header) < LOCAL.size or header[:4] != LOCAL_SIGN:
                raise Unusable("its header in the zip is damaged")
            *_, name_length, extra_length = LOCAL.unpack(header)
            data = os.pread(descriptor, compressed, offset + LOCAL.size + name_length + extra_length)
            if method == DEFLATED:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(
                    data, size + 1
                )  # it may unpack to more than it says
        except (OSError, zlib.error) as error:
            raise Unusable(f"cannot be read: {error}") from error
        if len(data) != size or zlib.crc32(data) != checksum:
            raise Unusable("is damaged: its checksum in the zip is another")
        return data


def is_zip(path: Path) -> bool:
    """Whether a file ends as zip archives do."""
    with path.open("rb") as file:
        return _find_end(file)[0] >= 0


def _find_end(file: BinaryIO) -> tuple[int, bytes]:
    """Offset and bytes of the end of the central directory; -1 where there is none."""
    size = file.seek(0, os.SEEK_END)
    start = max(0, size - LONGEST_COMMENT - END.size)
    file.seek(start)
    tail = file.read()
    place = tail.rfind(END_SIGN)
    complete = place >= 0 and len(tail) >= place + END.size
    return (start + place, tail[place : place + END.size]) if complete else (-1, b"")


def _central_directory(file: BinaryIO, path: Path) -> tuple[int, int, int, int]:
    """Offset of the directory's first entry, its bytes, its entries, and the bytes of a program before the archive."""
    end, record = _find_end(file)
    if end < 0:
        raise PrologueError(f"{path} is no zip, or cut off: its directory is missing")
    _, _, _, _, count, size, offset, _ = END.unpack(record)
    if count == FULL_16 or FULL_32 in (size, offset):
        file.seek(max(0, end - END64_LOCATOR.size))
        locator = file.read(END64_LOCATOR.size)
        if locator[:4] == LOCATOR_SIGN:
            at_end = end - END64_LOCATOR.size - END64.size  # of an archive with something before it
            for place in (END64_LOCATOR.unpack(locator)[2], at_end):
                file.seek(place)
                record = file.read(END64.size)
                if len(record) == END64.size and record[:4] == END64_SIGN:
                    *_, count, size, offset = END64.unpack(record)
                    end = place
                    break
    file.seek(offset)
    if file.read(4) in (CENTRAL_SIGN, END_SIGN):
        return offset, size, count, 0
    return end - size, size, count, end - size - offset


def _read_entry(file: BinaryIO, path: Path, before: int) -> File | None:
    """The next entry of the central directory; None for a folder."""
    header = file.read(CENTRAL.size)
    if len(header) < CENTRAL.size or header[:4] != CENTRAL_SIGN:
        raise PrologueError(f"the directory of {path} is damaged; is the file complete?")
    fields = CENTRAL.unpack(header)
    flags, method, checksum, compressed, size = fields[3], fields[4], fields[7], fields[8], fields[9]
    name_length, extra_length, comment_length = fields[10:13]
    attributes, offset = fields[15], fields[16]
    raw = file.read(name_length)
    size, compressed, offset = _zip64(file.read(extra_length), size, compressed, offset)
    file.seek(comment_length, os.SEEK_CUR)
    name = _decoded(raw, bool(flags & UTF8))
    if "/" not in name:
        name = name.replace("\\", "/")  # of programs that write Windows' own paths
    if name.endswith("/"):
        return None
    kind = stat.S_IFMT(attributes >> 16)
    problem = None if kind in (0, stat.S_IFREG) else "a link or device, not a plain file"
    if flags & ENCRYPTED:
        problem = "encrypted"
    elif method not in (STORED, DEFLATED):
        problem = f"compressed by method {method} of zip; only stored and deflated entries are read"
    return File(name, size, (0, before + offset, compressed, method, checksum), problem)


def _decoded(raw: bytes, is_utf8: bool) -> str:
    """A name: many programs write UTF-8 without saying so; what is none is in the code page of DOS."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("utf-8" if is_utf8 else "cp437", "surrogateescape")


def _zip64(extra: bytes, size: int, compressed: int, offset: int) -> tuple[int, int, int]:
    """The three numbers with those that did not fit 32 bits taken from the zip64 field."""
    values = [size, compressed, offset]
    while len(extra) >= 4:
        kind, length = struct.unpack("<2H", extra[:4])
        field, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == 1:
            for place, value in enumerate(values):
                if value == FULL_32 and len(field) >= 8:
                    values[place], field = struct.unpack("<Q", field[:8])[0], field[8:]
    return values[0], values[1], values[2]
