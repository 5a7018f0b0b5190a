"""Sources, shards, transforms and loaders of images."""

import io
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from prologue.data.images import ImageShards, open_image, to_rgb
from prologue.data.loader import training_batches, view_batches
from prologue.data.shards import write_shards
from prologue.data.sources import open_source
from prologue.data.transforms import CROPS, center_crop, crop_views, random_crop
from prologue.errors import PrologueError
from prologue.files import read_json
from prologue.params import AugmentParams, DataParams

AUGMENT = AugmentParams(max_scale=1.25, flip=True)


def noise(width: int = 12, height: int = 10, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def class_files(per_class: int, *folders: str) -> dict[str, bytes]:
    return {
        f"{folder}/{number}.png": encoded(noise(seed=1000 * place + number))
        for place, folder in enumerate(folders)
        for number in range(per_class)
    }


SPLIT = class_files(4, "train/cat", "train/dog") | class_files(2, "val/cat", "val/dog")
UNSPLIT = class_files(10, "cat", "dog")


def write_folder(files: dict[str, bytes], path: Path) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def write_zip(files: dict[str, bytes], path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_tar(files: dict[str, bytes], path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


WRITERS = [write_folder, write_zip, write_tar]


def params(source: Path, **changes: object) -> DataParams:
    defaults = {
        "source": source,
        "image_size": 8,
        "train_limit": None,
        "val_limit": None,
        "val_fraction": 0.2,
        "images_per_shard": 3,
        "max_pixels": 10_000,
        "max_rejected": 0.9,
    }
    return DataParams.model_validate(defaults | changes)


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def tar_paths(shards: Path, split: str) -> list[str]:
    """The source paths of a split's images, as a reader that knows nothing of the index sees them."""
    tars = sorted(str(path) for path in (shards / split).glob("*.tar"))
    dataset = webdataset.WebDataset(tars, shardshuffle=False, empty_check=False)
    return [sample["txt"].decode() for sample in dataset]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_shards(params(write_folder(SPLIT, folder / "source")), 0, folder / "shards")
    return folder / "shards"


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("prefix", ["", "wrapped/", "./"])
def test_split_sources_read_alike_from_folder_zip_and_tar(write, prefix, tmp_path):
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
@pytest.mark.parametrize(("fraction", "per_class"), [(0.5, 5), (0.1, 4)])  # 0.1: more, as the metrics need 10 in all
def test_without_val_a_share_of_each_class_is_held_out(write, fraction, per_class, tmp_path):
    source = write(UNSPLIT | {"single/0.png": encoded(noise()), "__MACOSX/0.png": b"x"}, tmp_path / "source")
    write_shards(params(source, val_fraction=fraction), 0, tmp_path / "shards")
    write_shards(params(source, val_fraction=fraction), 1, tmp_path / "other_seed")
    val = ImageShards(tmp_path / "shards", "val")
    assert np.bincount(val.labels, minlength=3).tolist() == [per_class, per_class, 0]
    train_paths, val_paths = (tar_paths(tmp_path / "shards", split) for split in ("train", "val"))
    assert sorted(train_paths + val_paths) == sorted([*UNSPLIT, "single/0.png"])
    assert set(val_paths) != set(tar_paths(tmp_path / "other_seed", "val"))


@pytest.mark.parametrize("name", ["validation", "test"])
def test_other_names_of_val(name, tmp_path):
    files = class_files(3, "train/a", f"{name}/a") | {"extra/readme.png": b"x"}
    metrics = write_shards(params(write_folder(files, tmp_path / "source")), 0, tmp_path / "shards")
    assert metrics["val"]["images"] == 3
    assert metrics["rejected"]["count"] == 0


def test_limits_are_balanced_over_classes(tmp_path):
    files = class_files(9, "train/a", "train/b", "val/a", "val/b") | class_files(2, "train/c")
    source = write_folder(files, tmp_path / "source")
    write_shards(params(source, train_limit=10, val_limit=5), 0, tmp_path / "shards")
    assert np.bincount(ImageShards(tmp_path / "shards", "train").labels).tolist() == [4, 4, 2]
    assert sorted(np.bincount(ImageShards(tmp_path / "shards", "val").labels)) == [2, 3]


def test_the_same_input_gives_the_same_bytes(tmp_path):
    for name, source in ("a", write_folder(SPLIT, tmp_path / "s")), ("b", write_zip(SPLIT, tmp_path / "s.zip")):
        write_shards(params(source), 0, tmp_path / name)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_training_shards_mix_classes_and_hold_what_the_manifest_says(tmp_path):
    write_shards(params(write_folder(UNSPLIT, tmp_path / "s"), images_per_shard=5), 0, tmp_path / "shards")
    images = ImageShards(tmp_path / "shards", "train")
    assert images.shard_sizes == [5, 5]
    assert len(set(images.labels[:5])) == 2
    manifest = read_json(tmp_path / "shards" / "manifest.json")
    assert [shard["images"] for shard in manifest["train"]["shards"]] == [5, 5]


def test_webdataset_reads_what_the_index_points_at(shards):
    images = ImageShards(shards, "train")
    tars = sorted(str(path) for path in (shards / "train").glob("*.tar"))
    samples = list(webdataset.WebDataset(tars, shardshuffle=False, empty_check=False))
    assert len(samples) == len(images) == 8
    for position, sample in enumerate(samples):
        assert sample["png"] == images.read(position) == SPLIT[sample["txt"].decode()]
        assert int(sample["cls"]) == images.labels[position]


DAMAGED = {
    "empty.png": (b"", "does not decode"),
    "text.jpg": (b"hello", "does not decode"),
    "truncated.png": (encoded(noise())[:-200], "does not decode"),
    "truncated.jpg": (encoded(noise(64, 64), "JPEG")[:-400], "does not decode"),
    "animated.gif": (encoded(noise(), "GIF", save_all=True, append_images=[noise(seed=1)]), "frame"),
    "huge.png": (encoded(Image.new("L", (200, 101))), "max_pixels"),
    "thin.png": (encoded(Image.new("L", (101, 1))), "100 times"),
    "float.tif": (encoded(Image.new("F", (4, 4)), "TIFF"), "no known range"),
}


def test_damaged_and_odd_files_are_reported_by_name(tmp_path):
    bad = {f"cat/{name}": content for name, (content, _) in DAMAGED.items()}
    source = write_zip(UNSPLIT | bad | {"loose.png": encoded(noise())}, tmp_path / "source.zip")
    metrics = write_shards(params(source, val_fraction=0.1), 0, tmp_path / "shards")
    reasons = {item["path"]: item["reason"] for item in read_json(tmp_path / "shards" / "manifest.json")["rejected"]}
    assert set(reasons) == {*bad, "loose.png"}
    for name, (_, reason) in DAMAGED.items():
        assert reason in reasons[f"cat/{name}"]
    assert metrics["rejected"] == {"count": len(bad) + 1, "share": (len(bad) + 1) / (len(UNSPLIT) + len(bad) + 1)}
    assert metrics["train"]["images"] + metrics["val"]["images"] == len(UNSPLIT)


def test_too_many_damaged_files_stop_the_stage_and_leave_nothing(tmp_path):
    source = write_folder(UNSPLIT | {"cat/broken.png": b"x"}, tmp_path / "source")
    with pytest.raises(PrologueError, match=r"cat/broken\.png: does not decode"):
        write_shards(params(source, max_rejected=0.01), 0, tmp_path / "shards")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_class_without_a_usable_image_stops_the_stage(tmp_path):
    source = write_folder(UNSPLIT | {"bird/broken.png": b"x"}, tmp_path / "source")
    with pytest.raises(PrologueError, match="bird"):
        write_shards(params(source), 0, tmp_path / "shards")


def test_hostile_names_and_links_are_rejected(tmp_path):
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
    (tmp_path / "s/cat/link.png").symlink_to("0.png")
    (tmp_path / "s/linked").symlink_to("cat")
    expected = {"s.tar": {*hostile, "cat/link.png", "cat/pipe.png"}, "s.zip": {*hostile, "cat/link.png"}}
    for name, paths in (expected | {"s": {"cat/link.png", "linked"}}).items():
        with open_source(tmp_path / name) as source:
            assert {entry.member.path for entry in source.entries} == set(UNSPLIT)
            assert {item.path for item in source.rejected} == paths


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"readme.txt": b"x"}, "no class folders"),
        (class_files(2, "train/a", "val/a", "val/b"), "no training images of the classes b"),
        (class_files(2, "val/a", "val/b"), "no train/"),
        (class_files(1, "a", "b"), "one image per class"),
    ],
)
def test_unusable_sources_are_explained(files, message, tmp_path):
    with pytest.raises(PrologueError, match=message):
        write_shards(params(write_folder(files, tmp_path / "source")), 0, tmp_path / "shards")


def test_missing_and_unknown_sources_are_explained(tmp_path):
    with pytest.raises(PrologueError, match="not found"):
        write_shards(params(tmp_path / "nowhere"), 0, tmp_path / "shards")
    (tmp_path / "data.rar").write_bytes(b"Rar!")
    with pytest.raises(PrologueError, match="neither a folder nor a zip"):
        write_shards(params(tmp_path / "data.rar"), 0, tmp_path / "shards")
    with pytest.raises(PrologueError, match="run the stage shards"):
        ImageShards(tmp_path, "train")


def test_every_pixel_format_becomes_rgb():
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


def test_exif_orientation_is_applied_and_phone_jpegs_with_two_pictures_are_accepted(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown rotated by 90 degrees
    assert to_rgb(open_image(encoded(noise(20, 10), "JPEG", exif=exif))).size == (10, 20)
    phone = encoded(noise(), "MPO", save_all=True, append_images=[noise(seed=1)])
    metrics = write_shards(params(write_folder(UNSPLIT | {"cat/phone.jpg": phone}, tmp_path / "s")), 0, tmp_path / "o")
    assert metrics["rejected"]["count"] == 0


def test_shards_can_be_read_in_forked_and_unpickled_copies(shards):
    images = ImageShards(shards, "train")
    expected = images.read(5)
    assert pickle.loads(pickle.dumps(images)).read(5) == expected
    child = os.fork()
    if child == 0:
        os._exit(0 if all(images.read(5) == expected for _ in range(100)) else 1)
    assert os.waitpid(child, 0)[1] == 0


def adm_center_crop(image: Image.Image, size: int) -> np.ndarray:
    """The crop of guided-diffusion's image_datasets.py, restated."""
    while min(*image.size) >= 2 * size:
        image = image.resize(tuple(x // 2 for x in image.size), resample=Image.Resampling.BOX)
    scale = size / min(*image.size)
    image = image.resize(tuple(round(x * scale) for x in image.size), resample=Image.Resampling.BICUBIC)
    array = np.array(image)
    y, x = (array.shape[0] - size) // 2, (array.shape[1] - size) // 2
    return array[y : y + size, x : x + size]


@pytest.mark.parametrize("width_height", [(16, 16), (17, 33), (131, 40), (5, 9), (32, 31), (257, 99)])
def test_center_crop_is_adms(width_height):
    image = noise(*width_height)
    assert np.array_equal(center_crop(image, 16), adm_center_crop(image, 16))


def test_crop_views_are_in_the_documented_order():
    image = noise(300, 290)
    center = adm_center_crop(image, 256)
    assert np.array_equal(crop_views(image, 256, "center"), center[None])
    assert np.array_equal(crop_views(image, 256, "flip"), [center, center[:, ::-1]])
    square, ten = adm_center_crop(image, 281), crop_views(image, 256, "ten")
    five = [square[:256, :256], square[:256, 25:], square[25:, :256], square[25:, 25:], square[12:268, 12:268]]
    assert np.array_equal(ten, five + [crop[:, ::-1] for crop in five])
    assert all(len(crop_views(image, 8, scheme)) == views for scheme, views in CROPS.items())


def test_random_crop_covers_scales_places_and_mirrors():
    ramp = np.broadcast_to(np.linspace(0, 255, 40, dtype=np.uint8)[None, :, None], (40, 40, 3))
    image, rng = Image.fromarray(ramp.copy()), np.random.default_rng(0)
    crops = [random_crop(image, 32, 1.25, True, rng) for _ in range(100)]
    assert {crop.shape for crop in crops} == {(32, 32, 3)}
    slopes = np.array([int(crop[0, -1, 0]) - int(crop[0, 0, 0]) for crop in crops])
    assert 30 < (slopes < 0).sum() < 70
    assert abs(slopes).min() < 210  # the shorter side stayed 40: a crop shows 4/5 of the width
    assert abs(slopes).max() > 250  # scaled to 32: a crop shows all of it
    plain = [random_crop(image, 32, 1.0, False, rng) for _ in range(5)]
    assert all(np.array_equal(crop, center_crop(image, 32)) for crop in plain)


def batches(images: ImageShards, start: int, stop: int, rank: int = 0, processes: int = 1, batch: int = 6):
    return list(training_batches(images, 8, AUGMENT, 0, batch, start, stop, rank, processes))


def test_training_resumes_at_any_step(shards):
    images = ImageShards(shards, "train")
    whole = batches(images, 0, 7)
    for (pixels, labels), (again, labels_again) in zip(whole[4:], batches(images, 4, 7), strict=True):
        assert torch.equal(pixels, again)
        assert torch.equal(labels, labels_again)
    pixels, labels = whole[0]
    assert (pixels.shape, pixels.dtype, labels.dtype) == ((6, 3, 8, 8), torch.uint8, torch.int64)


def test_processes_share_each_global_batch(shards):
    images = ImageShards(shards, "train")
    halves = [batches(images, 2, 4, rank, 2) for rank in (0, 1)]
    for whole, *parts in zip(batches(images, 2, 4), *halves, strict=True):
        for place in 0, 1:
            assert torch.equal(whole[place], torch.cat([part[place] for part in parts]))
    with pytest.raises(PrologueError, match="6 cannot be divided over 4"):
        batches(images, 0, 1, processes=4)


def test_each_epoch_shows_each_image_once_and_anew(shards, tmp_path):
    # one plain colour per image, so that a crop says which image it shows
    files = {f"train/a/{n}.png": encoded(Image.new("RGB", (8, 8), (n, n, n))) for n in range(11)}
    files["val/a/11.png"] = encoded(noise())
    write_shards(params(write_folder(files, tmp_path / "s")), 0, tmp_path / "o")
    images = ImageShards(tmp_path / "o", "train")
    assert len(images) == 11
    shown = torch.cat([pixels[:, 0, 0, 0] for pixels, _ in batches(images, 0, 11, batch=4)])
    epochs = shown.reshape(4, 11)
    assert all(len(epoch.unique()) == 11 for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    real = ImageShards(shards, "train")
    first, second = (torch.cat([pixels for pixels, _ in batches(real, s, s + 1, batch=8)]) for s in (0, 1))
    assert not torch.equal(first.flatten(1).sort(0).values, second.flatten(1).sort(0).values)


def test_each_image_is_augmented_on_its_own(tmp_path):
    source = write_folder({f"a/{n}.png": encoded(noise()) for n in range(12)}, tmp_path / "s")
    write_shards(params(source), 0, tmp_path / "o")
    ((pixels, _),) = batches(ImageShards(tmp_path / "o", "train"), 0, 1)
    assert len(pixels.unique(dim=0)) > 1


def test_loader_workers_change_nothing(shards, monkeypatch):
    images = ImageShards(shards, "train")
    state = torch.get_rng_state()
    alone = batches(images, 0, 4)
    assert torch.equal(torch.get_rng_state(), state), "loading must leave the global random state alone"
    monkeypatch.setenv("PROLOGUE_WORKERS", "2")
    for one, other in zip(alone, batches(images, 0, 4), strict=True):
        assert torch.equal(one[0], other[0])


def test_view_batches_keep_the_order_of_the_indices(shards):
    images = ImageShards(shards, "train")
    indices = [5, 1, 7, 0, 2]
    got = list(view_batches(images, 8, "flip", indices, 2))
    assert [len(pixels) for pixels, _ in got] == [2, 2, 1]
    assert torch.cat([positions for _, positions in got]).tolist() == indices
    pixels = torch.cat([pixels for pixels, _ in got])
    assert (pixels.shape, pixels.dtype) == ((5, 2, 3, 8, 8), torch.uint8)
    for row, index in zip(pixels, indices, strict=True):
        expected = crop_views(images.image(index), 8, "flip")
        assert np.array_equal(row.permute(0, 2, 3, 1).numpy(), expected)
