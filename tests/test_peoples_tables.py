"""Parquet files and webdataset tars as people have them: columns, names and parts of any project, and damage."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from calls import record_calls
from image_files import class_files, encoded, noise, tree, write_folder, write_tar
from pyarrow import parquet
from reading import HELD_OUT, TWO, Files, expect, read

from prologue.core.errors import PrologueError
from prologue.data import shards as shards_module

EQUAL = {"0": 20, "1": 20}


def images(count: int, seed: int = 0) -> list[dict[str, object]]:
    return [{"bytes": encoded(noise(seed=seed + number)), "path": None} for number in range(count)]


def labels(count: int) -> list[int]:
    return [number % 2 for number in range(count)]


def write_rows(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(columns), path)
    return path


def samples(count: int, image: str = "jpg", label: str = "cls", seed: int = 0) -> Files:
    files: Files = {}
    for number in range(count):
        content = json.dumps({"class": number % 2}) if label == "json" else str(number % 2)
        files[f"{number:06}.{label}"] = content.encode()
        files[f"{number:06}.{image}"] = encoded(noise(seed=seed + number), "JPEG")
    return files


@pytest.mark.parametrize(("train", "other"), [("train", "valid"), ("Training", "dev"), ("train", "test")])
def test_parts_are_told_by_the_names_of_files(train: str, other: str, tmp_path: Path) -> None:
    for name, count in ((train, 20), (other, 8)):
        write_rows(tmp_path / "p" / "data" / f"{name}-00000-of-00001.parquet", image=images(count), label=labels(count))
        write_folder({}, tmp_path / "w").mkdir(exist_ok=True)
        write_tar(samples(count), tmp_path / "w" / f"set-{name}-000000.tar")
    for kind in ("p", "w"):
        expect(read(tmp_path / kind, tmp_path / "shards"), {"0": 14, "1": 14}, (20, 8), f"{other}-")


def test_labels_that_are_mended_after_a_kill_are_those_that_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, own in (("wrong", [0] * 20 + [1] * 20), ("right", labels(40))):
        write_rows(tmp_path / folder / "all.parquet", image=images(40), label=own)
    with monkeypatch.context() as patch:
        record_calls(patch, shards_module, "write_shard", dies_after=2)
        with pytest.raises(KeyboardInterrupt):
            read(tmp_path / "wrong", tmp_path / "shards", images_per_shard=10)
    (tmp_path / "right" / "all.parquet").replace(tmp_path / "wrong" / "all.parquet")
    expect(read(tmp_path / "wrong", tmp_path / "shards", images_per_shard=10), EQUAL, HELD_OUT)
    read(tmp_path / "wrong", tmp_path / "anew", images_per_shard=10)
    assert tree(tmp_path / "shards") == tree(tmp_path / "anew")


def test_a_column_of_splits_is_followed(tmp_path: Path) -> None:
    split = ["train"] * 30 + ["test"] * 10
    write_rows(tmp_path / "p" / "all.parquet", image=images(40), label=labels(40), split=split)
    expect(read(tmp_path / "p", tmp_path / "shards"), EQUAL, HELD_OUT, "test", '"images": 10, "split": "val"')


def test_labels_that_are_whole_floats_are_ordered_by_value_and_nan_is_none(tmp_path: Path) -> None:
    numbers = [float(number % 11) for number in range(44)]
    write_rows(tmp_path / "p" / "all.parquet", image=images(44), label=numbers)
    expect(read(tmp_path / "p", tmp_path / "shards"), {str(n): 4 for n in range(11)}, (33, 11))
    write_rows(tmp_path / "n" / "all.parquet", image=images(45), label=[*numbers, float("nan")])
    manifest = read(tmp_path / "n", tmp_path / "shards", max_rejected=0.1)
    assert [rejected["reason"] for rejected in manifest["rejected"]] == ["it has no label"]


def test_tables_beside_images_are_left_aside(tmp_path: Path) -> None:
    write_folder(TWO, tmp_path / "p")
    write_rows(tmp_path / "p" / "metadata.parquet", file=[*TWO], width=[12] * 40)
    expect(read(tmp_path / "p", tmp_path / "shards"), {"cat": 20, "dog": 20}, HELD_OUT, "parquet")


def test_several_versions_of_one_set_are_refused_with_their_names(tmp_path: Path) -> None:
    for name in ("160px", "320px", "full_size"):
        for part, count in (("train", 20), ("validation", 12)):
            path = tmp_path / "p" / name / f"{part}-00000-of-00001.parquet"
            write_rows(path, image=images(count), label=labels(count))
    with pytest.raises(PrologueError, match=r"160px, 320px(,| or) full_size"):
        read(tmp_path / "p", tmp_path / "shards")
    expect(read(tmp_path / "p" / "320px", tmp_path / "shards"), {"0": 16, "1": 16}, (20, 12))


def test_rows_that_cannot_be_used_say_what_they_hold(tmp_path: Path) -> None:
    train = {"image": images(40), "label": labels(40)}
    write_rows(tmp_path / "a" / "train-00000-of-00001.parquet", **train)
    write_rows(tmp_path / "a" / "unlabeled-00000-of-00001.parquet", image=images(8))
    with pytest.raises(PrologueError, match="unlabeled-00000-of-00001"):
        read(tmp_path / "a", tmp_path / "shards")
    write_rows(tmp_path / "b.parquet", image=images(40), labels=[[number % 2] for number in range(40)])
    with pytest.raises(PrologueError, match=r"labels.*list"):
        read(tmp_path / "b.parquet", tmp_path / "shards")
    paths = [{"bytes": None, "path": f"/home/me/{number}.jpg"} for number in range(20)]
    write_rows(tmp_path / "c.parquet", image=paths, label=labels(20))
    with pytest.raises(PrologueError, match="but a path, /home/me/"):
        read(tmp_path / "c.parquet", tmp_path / "shards")
    write_rows(tmp_path / "d" / "train-00000-of-00002.parquet", **train)
    (tmp_path / "d" / "train-00001-of-00002.parquet").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(PrologueError, match=r"00001-of-00002.*git lfs pull"):
        read(tmp_path / "d", tmp_path / "shards")


@pytest.mark.parametrize(("image", "label"), [("input.jpg", "target.cls"), ("jpg", "json"), ("JPEG", "CLS")])
def test_samples_are_told_by_their_last_ending_in_any_case(image: str, label: str, tmp_path: Path) -> None:
    source = write_tar(samples(40, image, label.lower() if label == "json" else label), tmp_path / "a.tar")
    expect(read(source, tmp_path / "shards"), EQUAL, HELD_OUT)


def test_labels_of_editors_are_read(tmp_path: Path) -> None:
    marked = {n: b"\xef\xbb\xbf" + data + b"\r\n" if n.endswith("cls") else data for n, data in samples(40).items()}
    expect(read(write_tar(marked, tmp_path / "a.tar"), tmp_path / "shards"), EQUAL, HELD_OUT)


def test_of_several_images_in_a_sample_the_plain_one_is_read(tmp_path: Path) -> None:
    depth = {f"{number:06}.depth.png": encoded(noise(seed=900 + number).convert("L")) for number in range(40)}
    photos = samples(40)
    mixed = dict(sorted((photos | depth).items()))  # cls, depth.png, jpg
    expect(read(write_tar(mixed, tmp_path / "a.tar"), tmp_path / "shards"), EQUAL, HELD_OUT)
    written = b"".join(path.read_bytes() for path in (tmp_path / "shards").glob("*/*.tar"))
    assert all(data in written for name, data in photos.items() if name.endswith(".jpg"))


@pytest.mark.parametrize(
    ("label", "content"), [("cls", b"\xc8\xff\x00\x01\x02\x03\x04\x05"), ("json", b'{"class": '), ("json", b"[1]")]
)
def test_one_bad_label_is_one_rejected_sample(label: str, content: bytes, tmp_path: Path) -> None:
    source = write_tar(samples(40, label=label) | {f"000007.{label}": content}, tmp_path / "a.tar")
    with pytest.raises(PrologueError, match=r"(?s)max_rejected.*000007"):
        read(source, tmp_path / "shards")
    manifest = read(source, tmp_path / "shards", max_rejected=0.1)
    expect(manifest, {"0": 20, "1": 19}, (29, 10))
    assert [rejected["path"].split("#")[1] for rejected in manifest["rejected"]] == ["000007"]


def test_tars_of_images_without_labels_name_their_endings(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    write_tar(samples(20, label="label.txt"), tmp_path / "w" / "000000.tar")
    with pytest.raises(PrologueError, match=r"\.jpg, \.label\.txt"):
        read(tmp_path / "w", tmp_path / "shards")
    write_folder(class_files(20, "cat", "dog"), tmp_path / "w")  # with folders beside them, they are of no interest
    expect(read(tmp_path / "w", tmp_path / "shards"), {"cat": 20, "dog": 20}, HELD_OUT, "tar")
