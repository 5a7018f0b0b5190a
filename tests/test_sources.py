"""Every kind of source: ImageNet as it is distributed, Parquet, webdataset shards, and archives that lie."""

import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from image_files import SPLIT, UNSPLIT, class_files, encoded, noise, params, write_folder, write_tar, write_zip
from pyarrow import parquet
from scipy.io import savemat

from prologue.core.errors import PrologueError
from prologue.core.files import read_json
from prologue.data.images import ImageShards
from prologue.data.shards import write_shards
from prologue.data.sources import kind_of

WNIDS = ["n01440764", "n01443537"]


def images_of(shards: Path, split: str) -> set[tuple[str, bytes]]:
    """Class and content of every image of a split."""
    images = ImageShards(shards, split)
    return {(images.classes[images.labels[i]], images.read(i)) for i in range(len(images))}


def expected_of(files: dict[str, bytes], split: str) -> set[tuple[str, bytes]]:
    return {(name.split("/")[1], data) for name, data in files.items() if name.startswith(split)}


def shard(source: Path, folder: Path, **changes: object) -> dict[str, Any]:
    return write_shards(params(source, **changes), 0, folder / "shards")


def test_kaggles_zip_of_imagenet_is_read_without_unpacking(tmp_path: Path) -> None:
    train = {f"train/{name}/{name}_{n}.JPEG": encoded(noise(seed=n), "JPEG") for n in range(4) for name in WNIDS}
    val = {
        f"val/ILSVRC2012_val_{n:08d}.JPEG": encoded(noise(seed=50 + n)) for n in range(1, 5)
    }  # PNG bytes, as one has
    table = "ImageId,PredictionString\n" + "".join(
        f"ILSVRC2012_val_{n:08d},{WNIDS[n % 2]} 1 2 3 4 {WNIDS[0]} 5 6 7 8\n" for n in range(1, 5)
    )
    images = {f"ILSVRC/Data/CLS-LOC/{name}": data for name, data in (train | val).items()}
    others = {
        "ILSVRC/Data/CLS-LOC/test/ILSVRC2012_test_00000001.JPEG": encoded(noise()),
        "ILSVRC/Annotations/CLS-LOC/train/n01440764/n01440764_0.xml": b"<annotation/>",
        "LOC_val_solution.csv": table.encode(),
        "LOC_synset_mapping.txt": b"n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\n",
    }
    metrics = shard(write_zip(images | others, tmp_path / "imagenet.zip"), tmp_path)
    assert (metrics["kind"], metrics["rejected"]["count"]) == ("zip", 0)
    assert images_of(tmp_path / "shards", "train") == expected_of(train, "train")
    assert images_of(tmp_path / "shards", "val") == {
        (WNIDS[n % 2], val[f"val/ILSVRC2012_val_{n:08d}.JPEG"]) for n in range(1, 5)
    }
    assert ImageShards(tmp_path / "shards", "val").class_names == ["tench", "goldfish"]


def tar_bytes(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_the_official_tars_of_imagenet_are_read_without_unpacking(tmp_path: Path) -> None:
    source = tmp_path / "imagenet"
    source.mkdir()
    train = {
        name: {f"{name}_{n}.JPEG": encoded(noise(seed=n + 10 * k)) for n in range(4)} for k, name in enumerate(WNIDS)
    }
    write_tar({f"{name}.tar": tar_bytes(files) for name, files in train.items()}, source / "ILSVRC2012_img_train.tar")
    val = {f"ILSVRC2012_val_{n:08d}.JPEG": encoded(noise(seed=90 + n)) for n in range(1, 5)}
    write_tar(val, source / "ILSVRC2012_img_val.tar")
    with pytest.raises(PrologueError, match=r"lacks ILSVRC2012_devkit_t12\.tar\.gz"):
        shard(source, tmp_path)
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O")]
    synsets = np.array([(1, WNIDS[1], "goldfish, Carassius"), (2, WNIDS[0], "tench, Tinca")], dtype=fields)
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    kit = {"kit/data/meta.mat": meta.getvalue(), "kit/data/ILSVRC2012_validation_ground_truth.txt": b"1\n2\n2\n1\n"}
    with tarfile.open(source / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        for name, content in kit.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert shard(source, tmp_path)["kind"] == "official_imagenet"
    expected = {(name, data) for name, files in train.items() for data in files.values()}
    assert images_of(tmp_path / "shards", "train") == expected
    truth = dict(zip(sorted(val), (WNIDS[1], WNIDS[0], WNIDS[0], WNIDS[1]), strict=True))
    assert images_of(tmp_path / "shards", "val") == {(truth[name], data) for name, data in val.items()}
    assert ImageShards(tmp_path / "shards", "val").class_names == ["tench", "goldfish"]


def write_parquet(path: Path, rows: Sequence[tuple[bytes | None, int]], names: list[str] | None) -> None:
    images = [{"bytes": data, "path": None} for data, _ in rows]
    table = pyarrow.table({"image": images, "label": [label for _, label in rows]})
    if names:
        features = {"label": {"names": names, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, row_group_size=2)


@pytest.mark.parametrize("names", [["zebra", "ant", "zebra"], None])
def test_parquet_files_of_the_hub_keep_their_labels(names: list[str] | None, tmp_path: Path) -> None:
    rows = [(encoded(noise(seed=n)), n % 3) for n in range(12)]
    for part in range(2):
        write_parquet(tmp_path / "hub" / "data" / f"train-{part:05d}-of-00002.parquet", rows[part::2], names)
    held_out = [(encoded(noise(seed=100 + n)), n) for n in range(3)]
    write_parquet(tmp_path / "hub" / "data" / "validation-00000-of-00001.parquet", held_out, names)
    unlabelled = [(encoded(noise(seed=200 + n)), -1) for n in range(5)]
    write_parquet(
        tmp_path / "hub" / "data" / "test-00000-of-00001.parquet", unlabelled, names
    )  # beside validation: unused
    metrics = shard(tmp_path / "hub", tmp_path)
    assert (metrics["kind"], metrics["rejected"]["count"]) == ("parquet", 0)
    assert images_of(tmp_path / "shards", "train") == {(str(label), data) for data, label in rows}
    assert images_of(tmp_path / "shards", "val") == {(str(label), data) for data, label in held_out}
    assert ImageShards(tmp_path / "shards", "train").class_names == (
        ["zebra (0)", "ant", "zebra (2)"] if names else ["0", "1", "2"]
    )


def test_parquet_rows_without_an_image_or_a_label_are_named(tmp_path: Path) -> None:
    rows = [(encoded(noise(seed=n)), n % 2) for n in range(24)] + [(None, 0), (encoded(noise()), -1)]
    write_parquet(tmp_path / "one.parquet", rows, None)
    shard(tmp_path / "one.parquet", tmp_path)
    reasons = {item["path"]: item["reason"] for item in read_json(tmp_path / "shards" / "manifest.json")["rejected"]}
    assert reasons == {"one.parquet#12/0": "the row holds no image bytes", "one.parquet#12/1": "it has no label"}


def test_shards_of_our_own_can_be_a_source_again(tmp_path: Path) -> None:
    shard(write_folder(SPLIT, tmp_path / "s"), tmp_path)
    metrics = write_shards(params(tmp_path / "shards"), 1, tmp_path / "again")
    assert metrics["kind"] == "webdataset"
    images = ImageShards(tmp_path / "again", "train")
    assert images.class_names == ["cat", "dog"]
    assert {data for _, data in images_of(tmp_path / "again", "train")} == {
        data for name, data in SPLIT.items() if name.startswith("train")
    }


def test_shards_of_others_with_json_labels_and_names_per_file(tmp_path: Path) -> None:
    def keyed(count: int, seed: int) -> dict[str, bytes]:
        files: dict[str, bytes] = {}
        for n in range(count):
            files |= {f"{seed + n}.jpg": encoded(noise(seed=seed + n), "JPEG"), f"{seed + n}.cls": b"%d" % (n % 2)}
        return files

    (tmp_path / "wds").mkdir()
    write_tar(keyed(6, 0), tmp_path / "wds" / "imagenet1k-train-0000.tar")
    write_tar(keyed(4, 50), tmp_path / "wds" / "imagenet1k-validation-00.tar")
    write_tar(
        {"1.jpg": encoded(noise()), "2.png": b"", "2.json": b"{}"}, tmp_path / "wds" / "imagenet1k-train-0001.tar"
    )
    metrics = shard(tmp_path / "wds", tmp_path)
    assert (metrics["train"]["images"], metrics["val"]["images"]) == (6, 4)
    reasons = {item["path"]: item["reason"] for item in read_json(tmp_path / "shards" / "manifest.json")["rejected"]}
    assert reasons == {
        "imagenet1k-train-0001.tar#1": "the sample has no class: no .cls or .json",
        "imagenet1k-train-0001.tar#2": "2.json tells no class",
    }


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zips_of_both_methods_and_with_64_bit_fields(method: int, tmp_path: Path) -> None:
    path = tmp_path / "s.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in SPLIT.items():
            with archive.open(name, "w", force_zip64=True) as file:
                file.write(content)
    shard(path, tmp_path)
    assert images_of(tmp_path / "shards", "train") == expected_of(SPLIT, "train")


def test_a_zip_that_lies_of_its_sizes_or_content_is_caught(tmp_path: Path) -> None:
    path = tmp_path / "s.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in UNSPLIT.items():
            archive.writestr(name, content)
        archive.writestr("cat/bomb.png", b"\0" * 1_000_000)
        archive.writestr("cat/other.png", encoded(noise()), zipfile.ZIP_LZMA)
    lying = bytearray(path.read_bytes())
    central = lying.index(b"cat/bomb.png", lying.rindex(b"cat/bomb.png") - 100) - 46
    assert lying[central : central + 4] == b"PK\x01\x02"
    lying[central + 24 : central + 28] = struct.pack("<L", 1000)  # it says that it unpacks to 1,000 bytes
    path.write_bytes(lying)
    shard(path, tmp_path)
    reasons = {item["path"]: item["reason"] for item in read_json(tmp_path / "shards" / "manifest.json")["rejected"]}
    assert "checksum" in reasons["cat/bomb.png"]
    assert "method 14" in reasons["cat/other.png"]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in SPLIT.items():
            archive.writestr(name, data)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(PrologueError, match=r"neither a folder, zip"):
        shard(path, tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"cat/0.png": encoded(noise())}, "one image per class"),
        ({}, "no class folders"),
        ({f"{name}/{n}.png": b"x" for name in ("cat", "dog") for n in range(3)}, "cannot be used"),
    ],
)
def test_one_image_and_none_are_errors(files: dict[str, bytes], message: str, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    with pytest.raises(PrologueError, match=message):
        shard(write_folder(files, tmp_path / "s"), tmp_path)
    assert not (tmp_path / "shards").exists()


def test_an_empty_class_folder_is_no_class_and_kinds_are_told_apart(tmp_path: Path) -> None:
    source = write_folder(UNSPLIT, tmp_path / "s")
    (source / "empty").mkdir()
    assert shard(source, tmp_path)["classes"] == 2
    assert kind_of(source) == "folder"
    assert kind_of(write_zip(UNSPLIT, tmp_path / "a")) == "zip"
    assert kind_of(write_tar(UNSPLIT, tmp_path / "b")) == "tar"
    assert kind_of(tmp_path / "shards") == "webdataset"
    assert kind_of(tmp_path / "shards" / "train" / "000000.tar") == "webdataset"
    nested = write_tar({"x.zip": (tmp_path / "a").read_bytes()} | class_files(2, "cat"), tmp_path / "c")
    assert kind_of(nested) == "tar"
