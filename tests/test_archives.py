"""Archives that are damaged, or that other programs wrote: all of their images are read, or the stage says why not."""

import os
import struct
from pathlib import Path

import pytest
from image_files import UNSPLIT, encoded, noise, params, write_tar, write_zip

from prologue.core.errors import PrologueError
from prologue.core.files import read_json
from prologue.data.shards import write_shards
from prologue.data.sources import webdataset, zip_archive
from prologue.data.sources.webdataset import WebdatasetSource
from prologue.data.sources.zip_archive import ZipSource

MEMBER = 512 + 1024  # bytes of a file of a tar, with its header
TAR = {f"cat/{number}.png": encoded(noise(16, 14, number)) for number in range(6)}


def test_a_zip_that_counts_its_entries_in_16_bits_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As macOS writes one of more than 65,535 files, here of 16: the number is what is left of it."""
    monkeypatch.setattr(zip_archive, "WRAPS", 17)
    path = write_zip(UNSPLIT, tmp_path / "s.zip")
    content = path.read_bytes()
    end = content.rindex(b"PK\5\6")
    path.write_bytes(content[: end + 8] + struct.pack("<2H", 3, 3) + content[end + 12 :])
    assert [file.path for file in ZipSource(path).files()] == list(UNSPLIT)
    assert write_shards(params(path), 0, tmp_path / "o")["train"]["images"] == 10


def test_a_zip_whose_directory_ends_too_early_is_refused(tmp_path: Path) -> None:
    path = write_zip(UNSPLIT, tmp_path / "s.zip")
    content = path.read_bytes()
    end = content.rindex(b"PK\5\6")
    (size,) = struct.unpack("<L", content[end + 12 : end + 16])
    for wrong in (size // 2, size - 10):
        path.write_bytes(content[: end + 12] + struct.pack("<L", wrong) + content[end + 16 :])
        with pytest.raises(PrologueError, match=r"the directory of .*s\.zip is damaged"):
            list(ZipSource(path).files())


def test_a_file_below_thousands_of_folders_is_rejected(tmp_path: Path) -> None:
    path = write_zip(UNSPLIT | {"x/" * 3000 + "0.png": encoded(noise())}, tmp_path / "s.zip")
    write_shards(params(path), 0, tmp_path / "o")
    (rejected,) = read_json(tmp_path / "o" / "manifest.json")["rejected"]
    assert rejected["reason"] == "it lies in more than 100 folders"


def test_an_entry_of_a_zip_never_takes_more_memory_than_its_image(tmp_path: Path) -> None:
    path = write_zip(UNSPLIT, tmp_path / "s.zip")
    content = bytearray(path.read_bytes())
    struct.pack_into("<L", content, content.index(b"PK\1\2") + 20, 2**32 - 2)
    path.write_bytes(content)
    write_shards(params(path), 0, tmp_path / "o")
    (rejected,) = read_json(tmp_path / "o" / "manifest.json")["rejected"]
    assert rejected == {"path": "cat/0.png", "reason": "its sizes in the zip are damaged"}


def damaged(content: bytes, how: str) -> bytes:
    """A tar of more than four files that is cut, overwritten or continued."""
    at = 4 * MEMBER
    return {
        "cut between files": content[:at],
        "cut in a header": content[: at + 100],
        "cut in a file": content[: at + 600],
        "zeros from a file on": content[:at] + bytes(2**21),
        "a damaged header": content[:at] + b"\xff" + content[at + 1 :],
        "another tar behind it": content * 2,
    }[how]


@pytest.mark.parametrize(
    "how",
    [
        "cut between files",
        "cut in a header",
        "cut in a file",
        "zeros from a file on",
        "a damaged header",
        "another tar behind it",
    ],
)
def test_a_damaged_tar_is_refused_instead_of_read_in_part(how: str, tmp_path: Path) -> None:
    assert all(512 < len(content) <= 1024 for content in TAR.values())
    path = write_tar(TAR, tmp_path / "s.tar")
    assert len(path.read_bytes()) >= 6 * MEMBER + 1024
    path.write_bytes(damaged(path.read_bytes(), how))
    with pytest.raises(PrologueError, match=r"s\.tar is damaged"):
        write_shards(params(path), 0, tmp_path / "o")


def test_a_tar_may_end_with_one_block_of_zeros_or_many(tmp_path: Path) -> None:
    path = write_tar(TAR, tmp_path / "s.tar")
    files = path.read_bytes()[: 6 * MEMBER]
    for zeros in (512, 1024, 10240, 2**20):
        path.write_bytes(files + bytes(zeros))
        metrics = write_shards(params(path, val_fraction=0.5), 0, tmp_path / "o")
        assert metrics["train"]["images"] + metrics["val"]["images"] == 6


def test_few_of_many_webdataset_tars_are_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webdataset, "MOST_OPEN", 2)
    (tmp_path / "wds").mkdir()
    images = [encoded(noise(seed=number)) for number in range(8)]
    for number, image in enumerate(images):
        write_tar({"a.png": image, "a.cls": b"0"}, tmp_path / "wds" / f"{number}.tar")
    source = WebdatasetSource(tmp_path / "wds")
    before, listed = len(os.listdir("/proc/self/fd")), list(source.files())
    for file, image in [*zip(listed, images, strict=True)] * 2:
        assert source.read(file.path, file.size, file.place) == image
        assert len(os.listdir("/proc/self/fd")) <= before + 2
