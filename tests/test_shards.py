"""From sources to shards: what is kept, held out and refused."""

import errno
import io
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from calls import record_calls
from image_files import (
    SPLIT,
    UNSPLIT,
    WRITERS,
    Writer,
    class_files,
    encoded,
    noise,
    params,
    tar_paths,
    tree,
    write_folder,
    write_tar,
    write_zip,
)
from PIL import Image

from prologue.core.errors import PrologueError
from prologue.core.files import read_json
from prologue.data import shards as shards_module
from prologue.data.fingerprint import fingerprint
from prologue.data.images import ImageShards, open_image, to_rgb
from prologue.data.shards import write_shards
from prologue.data.sources.base import Unusable
from prologue.data.sources.folder import FolderSource


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_shards(params(write_folder(SPLIT, folder / "source")), 0, folder / "shards")
    return folder / "shards"


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("prefix", ["", "wrapped/", "./"])
def test_split_sources_read_alike_from_folder_zip_and_tar(write: Writer, prefix: str, tmp_path: Path) -> None:
    hidden = {".DS_Store": b"x", "train/cat/._0.png": b"x", "__MACOSX/train/cat/0.png": b"x"}
    files = {prefix + name: content for name, content in (SPLIT | hidden | {"README.txt": b"x"}).items()}
    metrics = write_shards(params(write(files, tmp_path / "source")), 0, tmp_path / "shards")
    assert (metrics["train"]["images"], metrics["val"]["images"]) == (8, 4)
    assert metrics["classes"] == 2
    assert metrics["rejected"] == {"count": 0, "share": 0.0}
    for split in "train", "val":
        images = ImageShards(tmp_path / "shards", split)
        assert images.classes == ["cat", "dog"]
        expected = {(images.classes.index(name.split("/")[1]), data) for name, data in SPLIT.items() if split in name}
        assert {(int(images.labels[i]), images.read(i)) for i in range(len(images))} == expected


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(("fraction", "per_class"), [(0.5, 5), (0.1, 5)])  # 0.1: more, as the metrics need 10 in all
def test_without_val_a_share_of_each_class_is_held_out(
    write: Writer, fraction: float, per_class: int, tmp_path: Path
) -> None:
    source = write(UNSPLIT | {"single/0.png": encoded(noise()), "__MACOSX/0.png": b"x"}, tmp_path / "source")
    write_shards(params(source, val_fraction=fraction), 0, tmp_path / "shards")
    write_shards(params(source, val_fraction=fraction), 1, tmp_path / "other_seed")
    val = ImageShards(tmp_path / "shards", "val")
    assert np.bincount(val.labels, minlength=3).tolist() == [per_class, per_class, 0]
    train_paths, val_paths = (tar_paths(tmp_path / "shards", split) for split in ("train", "val"))
    assert sorted(train_paths + val_paths) == sorted([*UNSPLIT, "single/0.png"])
    assert set(val_paths) != set(tar_paths(tmp_path / "other_seed", "val"))


@pytest.mark.parametrize("name", ["validation", "test"])
def test_other_names_of_val(name: str, tmp_path: Path) -> None:
    source = write_folder(class_files(3, "train/a", f"{name}/a"), tmp_path / "source")
    metrics = write_shards(params(source), 0, tmp_path / "shards")
    assert metrics["val"]["images"] == 3
    assert metrics["rejected"]["count"] == 0
    write_folder({"extra/readme.png": b"x"}, source)
    with pytest.raises(PrologueError, match="extra/: of no known part"):
        write_shards(params(source), 0, tmp_path / "shards")


def test_limits_are_balanced_over_classes(tmp_path: Path) -> None:
    files = class_files(9, "train/a", "train/b", "val/a", "val/b") | class_files(2, "train/c")
    source = write_folder(files, tmp_path / "source")
    write_shards(params(source, train_limit=10, val_limit=5), 0, tmp_path / "shards")
    assert np.bincount(ImageShards(tmp_path / "shards", "train").labels).tolist() == [4, 4, 2]
    assert sorted(np.bincount(ImageShards(tmp_path / "shards", "val").labels)) == [2, 3]


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, source in ("a", write_folder(SPLIT, tmp_path / "s")), ("b", write_zip(SPLIT, tmp_path / "s.zip")):
        write_shards(params(source), 0, tmp_path / name)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_training_shards_mix_classes_and_hold_what_the_manifest_says(tmp_path: Path) -> None:
    write_shards(params(write_folder(UNSPLIT, tmp_path / "s"), images_per_shard=5), 0, tmp_path / "shards")
    images = ImageShards(tmp_path / "shards", "train")
    assert images.shard_sizes == [5, 5]
    assert len(set(images.labels[:5])) == 2
    manifest = read_json(tmp_path / "shards" / "manifest.json")
    assert [shard["images"] for shard in manifest["train"]["shards"]] == [5, 5]


def test_webdataset_reads_what_the_index_points_at(shards: Path) -> None:
    images = ImageShards(shards, "train")
    tars = sorted(str(path) for path in (shards / "train").glob("*.tar"))
    samples = list(webdataset.WebDataset(tars, shardshuffle=False, empty_check=False))
    assert len(samples) == len(images) == 8
    for position, sample in enumerate(samples):
        assert sample["png"] == images.read(position) == SPLIT[sample["txt"].decode()]
        assert int(sample["cls"]) == images.labels[position]


DAMAGED = {
    "empty.png": (b"", "is empty"),
    "text.jpg": (b"hello", "does not decode"),
    "truncated.png": (encoded(noise())[:-200], "does not decode"),
    "truncated.jpg": (encoded(noise(64, 64), "JPEG")[:-400], "does not decode"),
    "animated.gif": (encoded(noise(), "GIF", save_all=True, append_images=[noise(seed=1)]), "frame"),
    "huge.png": (encoded(Image.new("L", (200, 101))), "max_pixels"),
    "thin.png": (encoded(Image.new("L", (101, 1))), "100 times"),
    "float.tif": (encoded(Image.new("F", (4, 4)), "TIFF"), "no known range"),
}


def test_damaged_and_odd_files_are_reported_by_name(tmp_path: Path) -> None:
    bad = {f"cat/{name}": content for name, (content, _) in DAMAGED.items()}
    source = write_zip(UNSPLIT | bad | {"loose.png": encoded(noise())}, tmp_path / "source.zip")
    metrics = write_shards(params(source, val_fraction=0.1), 0, tmp_path / "shards")
    reasons = {item["path"]: item["reason"] for item in read_json(tmp_path / "shards" / "manifest.json")["rejected"]}
    assert set(reasons) == {*bad, "loose.png"}
    for name, (_, reason) in DAMAGED.items():
        assert reason in reasons[f"cat/{name}"]
    assert metrics["rejected"] == {"count": len(bad) + 1, "share": (len(bad) + 1) / (len(UNSPLIT) + len(bad) + 1)}
    assert metrics["train"]["images"] + metrics["val"]["images"] == len(UNSPLIT)


def test_too_many_damaged_files_stop_the_stage_and_a_higher_limit_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_folder(UNSPLIT | {"cat/broken.png": b"x"}, tmp_path / "source")
    written = record_calls(monkeypatch, shards_module, "write_shard")
    for _ in range(2):
        with pytest.raises(PrologueError, match=r"cat/broken\.png: does not decode"):
            write_shards(params(source, max_rejected=0.01), 0, tmp_path / "shards")
    assert not (tmp_path / "shards").exists()
    write_shards(params(source, max_rejected=0.5), 0, tmp_path / "shards")
    assert len(written) == len(set(written)), "none was written again"


def test_a_class_without_a_usable_image_stops_the_stage(tmp_path: Path) -> None:
    source = write_folder(UNSPLIT | {"bird/broken.png": b"x"}, tmp_path / "source")
    with pytest.raises(PrologueError, match="bird"):
        write_shards(params(source), 0, tmp_path / "shards")


def test_hostile_names_and_links_are_rejected(tmp_path: Path) -> None:
    image = encoded(noise())
    hostile = {"../cat/evil.png": image, "/etc/evil.png": image, "cat/../../evil.png": image}
    with tarfile.open(write_tar(UNSPLIT | hostile, tmp_path / "s.tar"), "a") as archive:
        for name, kind in ("cat/link.png", tarfile.SYMTYPE), ("cat/pipe.png", tarfile.FIFOTYPE):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    with zipfile.ZipFile(write_zip(UNSPLIT | hostile, tmp_path / "s.zip"), "a") as zipped:
        link = zipfile.ZipInfo("cat/link.png")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        zipped.writestr(link, "/etc/passwd")
    write_folder(UNSPLIT, tmp_path / "s")
    (tmp_path / "s/cat/gone.png").symlink_to("/nowhere")
    (tmp_path / "s/cat/again").symlink_to("..")
    expected = {"s.tar": {*hostile, "cat/link.png", "cat/pipe.png"}, "s.zip": {*hostile, "cat/link.png"}}
    for name, paths in (expected | {"s": {"cat/gone.png", "cat/again"}}).items():
        write_shards(params(tmp_path / name), 0, tmp_path / "shards")
        assert set(tar_paths(tmp_path / "shards", "train") + tar_paths(tmp_path / "shards", "val")) == set(UNSPLIT)
        assert {item["path"] for item in read_json(tmp_path / "shards" / "manifest.json")["rejected"]} == paths
    assert not (tmp_path / "cat").exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"readme.txt": b"x"}, "no class folders"),
        (class_files(2, "train/a", "val/a", "val/b"), "no training images of the classes b"),
        (class_files(2, "val/a", "val/b"), "no train/"),
        (class_files(1, "a", "b"), "one image per class"),
    ],
)
def test_unusable_sources_are_explained(files: dict[str, bytes], message: str, tmp_path: Path) -> None:
    with pytest.raises(PrologueError, match=message):
        write_shards(params(write_folder(files, tmp_path / "source")), 0, tmp_path / "shards")


def test_missing_and_unknown_sources_are_explained(tmp_path: Path) -> None:
    with pytest.raises(PrologueError, match="not found"):
        write_shards(params(tmp_path / "nowhere"), 0, tmp_path / "shards")
    (tmp_path / "data.rar").write_bytes(b"Rar!")
    with pytest.raises(PrologueError, match="neither a folder, zip"):
        write_shards(params(tmp_path / "data.rar"), 0, tmp_path / "shards")
    with pytest.raises(PrologueError, match="run the stage shards"):
        ImageShards(tmp_path, "train")


def test_every_pixel_format_becomes_rgb() -> None:
    grey16 = Image.fromarray(np.array([[0, 25650, 65535]], np.uint16))
    assert np.asarray(to_rgb(open_image(encoded(grey16))))[0, :, 0].tolist() == [0, 100, 255]
    rgba = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    for data in encoded(rgba), encoded(palette, transparency=b"\xff\x00"):
        assert to_rgb(open_image(data)).getpixel((0, 0)) == (10, 20, 30)
    cmyk = to_rgb(open_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)))
    assert np.abs(np.asarray(cmyk)[0, 0].astype(int) - [255, 0, 0]).max() < 5
    assert to_rgb(open_image(encoded(Image.new("L", (2, 2), 7)))).getpixel((0, 0)) == (7, 7, 7)


def test_exif_orientation_is_applied_and_phone_jpegs_with_two_pictures_are_accepted(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown rotated by 90 degrees
    assert to_rgb(open_image(encoded(noise(20, 10), "JPEG", exif=exif))).size == (10, 20)
    phone = encoded(noise(), "MPO", save_all=True, append_images=[noise(seed=1)])
    metrics = write_shards(params(write_folder(UNSPLIT | {"cat/phone.jpg": phone}, tmp_path / "s")), 0, tmp_path / "o")
    assert metrics["rejected"]["count"] == 0


def test_a_subset_of_classes_by_number_or_by_name(tmp_path: Path) -> None:
    source = write_folder(
        class_files(6, "train/a", "train/b", "train/c") | class_files(3, "val/a", "val/b", "val/c"), tmp_path / "s"
    )
    for wanted, expected in ((2, ["a", "b"]), (["c", "a"], ["a", "c"])):
        metrics = write_shards(params(source, classes=wanted), 0, tmp_path / "o")
        assert ImageShards(tmp_path / "o", "train").classes == expected
        assert (metrics["train"]["images"], metrics["val"]["images"]) == (12, 6)
    (source / "train" / "c" / "gone.png").symlink_to("nowhere")
    write_shards(params(source, classes=2, max_rejected=0.04), 0, tmp_path / "o")  # 1 of all 28, not of 19
    with pytest.raises(PrologueError, match=r"no classes d of data\.classes; it has a, b, c"):
        write_shards(params(source, classes=["a", "d"]), 0, tmp_path / "o")


def test_no_wanted_classes_are_all_and_none_to_validate_on_is_told(tmp_path: Path) -> None:
    source = write_folder(class_files(6, "train/a", "train/b") | class_files(3, "val/a"), tmp_path / "s")
    write_shards(params(source, classes=[]), 0, tmp_path / "o")
    assert ImageShards(tmp_path / "o", "train").classes == ["a", "b"]
    with pytest.raises(PrologueError, match="its part to validate on has no image of the chosen classes"):
        write_shards(params(source, classes=["b"]), 0, tmp_path / "o")


def test_classes_that_are_numbers_are_ordered_by_value(tmp_path: Path) -> None:
    write_shards(params(write_folder(class_files(3, "10", "9", "100"), tmp_path / "s")), 0, tmp_path / "o")
    assert ImageShards(tmp_path / "o", "train").classes == ["9", "10", "100"]


def test_a_file_that_cannot_be_read_is_reported_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_folder(UNSPLIT, tmp_path / "s")
    read = FolderSource.read

    def denied(self: FolderSource, path: str, size: int, place: tuple[int, ...]) -> bytes:
        if path == "cat/3.png":
            raise Unusable("cannot be read: Permission denied")
        return read(self, path, size, place)

    monkeypatch.setattr(FolderSource, "read", denied)
    write_shards(params(source), 0, tmp_path / "o")
    (item,) = read_json(tmp_path / "o" / "manifest.json")["rejected"]
    assert item == {"path": "cat/3.png", "reason": "cannot be read: Permission denied"}


def test_the_systems_folder_may_be_closed_and_a_class_may_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_folder(UNSPLIT | {"lost+found/x": b"", "cat/._0.png": b"", "cat/._1.png": b""}, tmp_path / "s")
    scandir, closed = os.scandir, {"lost+found"}

    def denied(path: Path) -> Any:
        if path.name in closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    fingerprint(params(source))
    write_shards(params(source), 0, tmp_path / "o")
    found = read_json(tmp_path / "o" / "manifest.json")["found"]
    assert found["ignored"] == {"system": {"._*": 2, "lost+found": 1}}
    closed.add("dog")
    with pytest.raises(PrologueError, match=r"cannot be listed: .*Permission denied: .*dog"):
        write_shards(params(source), 0, tmp_path / "o")


ODD_NAMES = [
    "ünï cödé.png",
    "a b/c d.png",
    "dots.in.the.name.png",
    "x" * 240 + ".png",
    "new\nline.png",
    "no_ending",
    "#?%.png",
]


@pytest.mark.parametrize("write", WRITERS)
def test_odd_names_survive(write: Writer, tmp_path: Path) -> None:
    odd = {f"cät {kind}/{name}": encoded(noise(seed=n)) for kind in "ab" for n, name in enumerate(ODD_NAMES)}
    write_shards(params(write(odd, tmp_path / "s")), 0, tmp_path / "o")
    assert ImageShards(tmp_path / "o", "train").classes == ["cät a", "cät b"]
    assert set(tar_paths(tmp_path / "o", "train") + tar_paths(tmp_path / "o", "val")) == set(odd)


def test_names_that_stand_twice_in_an_archive_are_two_images(tmp_path: Path) -> None:
    for write, path in ((write_zip, tmp_path / "s.zip"), (write_tar, tmp_path / "s.tar")):
        write(UNSPLIT, path)
        if path.suffix == ".zip":
            with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
                archive.writestr("cat/0.png", encoded(noise(seed=99)))
        else:
            with tarfile.open(path, "a") as archive:
                info = tarfile.TarInfo("cat/0.png")
                content = encoded(noise(seed=99))
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        metrics = write_shards(params(path), 0, tmp_path / "o")
        assert metrics["train"]["images"] + metrics["val"]["images"] == len(UNSPLIT) + 1
