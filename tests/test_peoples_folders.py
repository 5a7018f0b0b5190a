"""Folders and archives as people have them: nothing is lost, relabelled or moved between splits without a word."""

import io
import os
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from image_files import WRITERS, Writer, class_files, encoded, noise, params, write_folder, write_tar, write_zip
from matplotlib import font_manager
from reading import HELD_OUT, TWO, Files, expect, read

from prologue.core.errors import PrologueError
from prologue.data.fingerprint import fingerprint
from prologue.figures.fonts import font_for

PARTS = {"cat": 14, "dog": 14}  # 10 of each to train on, 4 to validate


def by_turns(cases: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The cases, each in one kind of source: what their names say is read by the same code in all."""
    return [(*case, WRITERS[place % len(WRITERS)]) for place, case in enumerate(cases)]


def parts(train: str, other: str, between: str = "", behind: str = "") -> Files:
    folders = [[f"{between}{part}/{name}{behind}" for name in ("cat", "dog")] for part in (train, other)]
    return class_files(10, *folders[0]) | {
        f"{name[:-4]}b.png": data for name, data in class_files(4, *folders[1]).items()
    }


def flat(folder: str, count: int) -> Files:
    return {f"{folder}{number}.png": encoded(noise(seed=7000 + number)) for number in range(count)}


PARTED: list[tuple[Files, str]] = [
    (parts("train", "valid"), '"valid/", "images": 8, "split": "val"'),
    (parts("Training", "Testing"), '"Testing/", "images": 8, "split": "val"'),
    (parts("Train", "Test"), '"Test/", "images": 8, "split": "val"'),
    (parts("TRAIN_SET", "val-images"), '"val-images/", "images": 8, "split": "val"'),
    (parts("training_data", "dev"), '"dev/"'),
    (parts("train", "eval", between="home/me/data/data/"), '"home/me/data/data/eval/"'),
    (parts("train", "valid", behind="/images"), '"valid/"'),
    (parts("train", "valid") | class_files(3, "test/cat", "test/dog"), '"name": "test/", "count": 6'),
    (parts("train", "valid") | flat("test/", 5), '"name": "test/", "count": 5'),
]


@pytest.mark.parametrize(("files", "said", "write"), by_turns(PARTED))
def test_a_part_is_told_by_any_of_its_words(files: Files, said: str, write: Writer, tmp_path: Path) -> None:
    expect(read(write(files, tmp_path / "source"), tmp_path / "shards"), PARTS, (20, 8), said)


FLOWERS = {"daisy": 10, "rose": 10}
TRANSPORT = dict.fromkeys(("boat", "bus", "car", "train"), 10)


CLASSED: list[tuple[Files, dict[str, int], tuple[int, int], tuple[str, ...]]] = [
    (class_files(10, "flowers/flowers/daisy", "flowers/flowers/rose"), FLOWERS, (10, 10), ()),
    (class_files(10, "home/me/photos/daisy", "home/me/photos/rose"), FLOWERS, (10, 10), ()),
    (class_files(10, *TRANSPORT), TRANSPORT, (28, 12), ()),
    (class_files(10, "control", "test"), {"control": 10, "test": 10}, (10, 10), ()),
    (
        class_files(20, "images/Images/a", "images/Images/b")
        | {f"annotations/Annotation/a/{number}": b"<xml/>" for number in range(40)},
        {"a": 20, "b": 20},
        HELD_OUT,
        ('"name": "annotations/", "count": 40',),
    ),
    (
        class_files(20, "train/cat", "train/dog") | flat("val/", 8),
        {"cat": 20, "dog": 20},
        HELD_OUT,
        ('"val/", "count": 8',),
    ),
    (
        class_files(20, "train/cat", "train/dog") | flat("test/", 8) | {"sample_submission.csv": b"id,label\n"},
        {"cat": 20, "dog": 20},
        HELD_OUT,
        ('"test/", "count": 8',),
    ),
    (
        TWO | {"cat/Thumbs.db": b"1", "dog/Thumbs.db": b"2", "dog/desktop.ini": b"3"},
        {"cat": 20, "dog": 20},
        HELD_OUT,
        (".db", ".ini"),
    ),
    (
        TWO | {f"{name[:-4]}.txt": b"a photo" for name in TWO},
        {"cat": 20, "dog": 20},
        HELD_OUT,
        ('.txt (cat/0.txt)": 40',),
    ),
    (
        TWO
        | {f"{Path(name).parent}/@eaDir/{Path(name).name}/SYNOPHOTO_THUMB_M.jpg": data for name, data in TWO.items()}
        | {
            "@eaDir/cat@SynoEAStream": b"",
            "$RECYCLE.BIN/old.png": encoded(noise()),
            "__MACOSX/cat/._0.png": b"apple",
        },
        {"cat": 20, "dog": 20},
        HELD_OUT,
        ("@eaDir", "$RECYCLE.BIN", "__MACOSX"),
    ),
    (
        class_files(20, "yes", "no", "maybe"),
        {"maybe": 20, "no": 20, "yes": 20},
        (48, 12),
        (),
    ),
]


@pytest.mark.parametrize(("files", "counts", "split", "said", "write"), by_turns(CLASSED))
def test_classes_are_folders_of_images_at_any_depth(
    files: Files, counts: dict[str, int], split: tuple[int, int], said: tuple[str, ...], write: Writer, tmp_path: Path
) -> None:
    manifest = read(write(files, tmp_path / "source"), tmp_path / "shards")
    expect(manifest, counts, split, *said)
    assert manifest["rejected"] == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (parts("train", "valid") | class_files(3, "extra/cat"), "extra"),
        (flat("", 12), "in no class folder"),
        (class_files(1, *(f"class {number}" for number in range(50))), "one image"),
    ],
)
def test_what_is_ambiguous_is_refused_by_name(files: Files, message: str, tmp_path: Path) -> None:
    with pytest.raises(PrologueError, match=message):
        read(write_folder(files, tmp_path / "source"), tmp_path / "shards")


def test_labels_come_from_the_tables_of_tiny_imagenet(tmp_path: Path) -> None:
    names = ("n01443537", "n01629819")
    files = class_files(10, *(f"tiny-imagenet-200/train/{name}/images" for name in names))
    files |= flat("tiny-imagenet-200/val/images/val_", 8) | flat("tiny-imagenet-200/test/images/test_", 3)
    labels = "".join(f"val_{number}.png\t{names[number % 2]}\t0\t0\t9\t9\n" for number in range(8))
    files["tiny-imagenet-200/val/val_annotations.txt"] = labels.encode()
    manifest = read(write_zip(files, tmp_path / "tiny.zip"), tmp_path / "shards")
    expect(manifest, dict.fromkeys(names, 14), (20, 8), '"tiny-imagenet-200/test/", "count": 3')


def test_two_classes_of_one_name_are_told_apart(tmp_path: Path) -> None:
    names = ("n02012849", "n03126707", "n01440764")
    base = "ILSVRC/Data/CLS-LOC"
    files = class_files(10, *(f"{base}/train/{name}" for name in names)) | flat(f"{base}/val/ILSVRC2012_val_0000000", 9)
    table = "ImageId,PredictionString\n" + "".join(
        f"ILSVRC2012_val_0000000{number},{names[number % 3]} 1 2 3 4\n" for number in range(9)
    )
    files["LOC_val_solution.csv"] = table.encode()
    files["LOC_synset_mapping.txt"] = b"n01440764 tench, Tinca tinca\nn02012849 crane\nn03126707 crane\n"
    source = write_zip(files, tmp_path / "imagenet.zip")
    with pytest.raises(PrologueError, match="n02012849 or n03126707"):
        read(source, tmp_path / "shards", classes=["crane", "tench"])
    manifest = read(source, tmp_path / "shards", classes=["n02012849", "tench"])
    assert (manifest["train"]["images"], manifest["val"]["images"]) == (20, 6)
    assert len(set(read(source, tmp_path / "shards")["class_names"])) == 3


def backslashes(files: Files, path: Path) -> Path:
    return write_zip({f"photos\\{name.replace('/', chr(92))}": data for name, data in files.items()}, path)


def behind_a_program(files: Files, path: Path) -> Path:
    write_zip(files, path)
    path.write_bytes(b"MZ" + bytes(5000) + path.read_bytes())
    return path


@pytest.mark.parametrize("write", [backslashes, behind_a_program])
def test_zips_of_other_programs(write: Writer, tmp_path: Path) -> None:
    expect(read(write(TWO, tmp_path / "a.zip"), tmp_path / "shards"), {"cat": 20, "dog": 20}, HELD_OUT)


def test_names_in_a_zip_are_utf8_even_where_it_does_not_say_so(tmp_path: Path) -> None:
    path = write_zip(class_files(20, "caX_", "tX_"), tmp_path / "mac.zip")
    path.write_bytes(path.read_bytes().replace(b"caX_/", "caé/".encode()).replace(b"tX_/", "té/".encode()))
    expect(read(path, tmp_path / "shards"), {"caé": 20, "té": 20}, HELD_OUT)


def test_a_zip_that_is_cut_off_is_told(tmp_path: Path) -> None:
    path = write_zip(TWO, tmp_path / "a.zip")
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(PrologueError, match="cut off"):
        read(path, tmp_path / "shards")


def test_compressed_archives_are_refused_by_their_compression(tmp_path: Path) -> None:
    packed = tmp_path / "photos.tar.gz"
    with tarfile.open(packed, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("cat/0.png"), io.BytesIO())
    with pytest.raises(PrologueError, match="compressed"):
        read(packed, tmp_path / "shards")
    with zipfile.ZipFile(tmp_path / "odd.zip", "w", zipfile.ZIP_BZIP2) as archive:
        for name, data in TWO.items():
            archive.writestr(name, data)
    with pytest.raises(PrologueError, match="method 12"):
        read(tmp_path / "odd.zip", tmp_path / "shards")


def test_links_are_followed_in_folders_and_in_tars(tmp_path: Path) -> None:
    store = write_folder(class_files(10, "cat", "dog"), tmp_path / "store")
    (tmp_path / "linked").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "linked" / name).symlink_to(store / name)
    expect(read(tmp_path / "linked", tmp_path / "shards"), {"cat": 10, "dog": 10}, (10, 10))

    with tarfile.open(write_tar(TWO, tmp_path / "a.tar"), "a") as archive:
        for number in range(10):
            link = tarfile.TarInfo(f"dog/again{number}.png")
            link.type, link.linkname = tarfile.LNKTYPE, f"dog/{number}.png"
            archive.addfile(link)
    expect(read(tmp_path / "a.tar", tmp_path / "shards"), {"cat": 20, "dog": 30}, (40, 10))


def test_names_that_look_alike_are_one_class_and_pictures_show_their_letters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    files = class_files(10, composed, "tea") | {
        f"{decomposed}/b{n}.png": encoded(noise(seed=4000 + n)) for n in range(10)
    }
    expect(read(write_zip(files, tmp_path / "a.zip"), tmp_path / "shards"), {composed: 20, "tea": 10}, (20, 10))
    assert font_for("Größe א", 14)[1] == "Größe א"
    assert font_for("\U0001fae0!", 14)[1] in ("\U0001fae0!", "U+1FAE0!")  # as an installed font has it or not
    gone = replace(font_manager.fontManager.ttflist[0], fname="/gone.ttf", style="normal", weight=400)
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [gone])
    assert font_for("\U0001fae1!", 14)[1] == "U+1FAE1!"


def test_the_fingerprint_of_a_source_changes_with_its_files_alone(tmp_path: Path) -> None:
    source = write_folder(TWO, tmp_path / "photos")
    exact, fast = params(source, hash_content=True), params(source)

    def prints() -> tuple[object, object]:
        return fingerprint(exact)["sha256"], fingerprint(fast)["sha256"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prologue.data.fingerprint.SMALL", 0)
        assert fingerprint(fast)["compared"] == "names, sizes and times"
        before = prints()
        assert prints() == before
        os.utime(source / "cat" / "0.png", (1, 1))
        touched = prints()
        assert (touched[0] == before[0], touched[1] == before[1]) == (True, False)
        (source / "cat" / "0.png").rename(source / "cat" / "first.png")
        assert all(new != old for new, old in zip(prints(), touched, strict=True))
