"""Transforms and loaders: the exact crop and the fast one, order, resume, and damage by name."""

import os
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import SPLIT, encoded, noise, params, write_folder
from PIL import Image

from prologue.core.errors import PrologueError
from prologue.core.params import AugmentParams
from prologue.data.images import ORIENTATION, ImageShards
from prologue.data.loader import Batch, training_batches, view_batches
from prologue.data.shards import write_shards
from prologue.data.transforms import CROPS, _decode_fast, center_crop, crop_views, random_crop

AUGMENT = AugmentParams(max_scale=1.25, flip=True, decoder="exact")
CROP = partial(random_crop, size=8, augment=AUGMENT)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_shards(params(write_folder(SPLIT, folder / "source")), 0, folder / "shards")
    return folder / "shards"


def test_shards_can_be_read_in_forked_and_unpickled_copies(shards: Path) -> None:
    images = ImageShards(shards, "train")
    expected = images.read(5)
    assert pickle.loads(pickle.dumps(images)).read(5) == expected
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if all(images.read(5) == expected for _ in range(100)) else 1)
        finally:  # else an error would go on as another pytest
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def adm_center_crop(image: Image.Image, size: int) -> np.ndarray:
    """The crop of guided-diffusion's image_datasets.py, restated."""
    while min(*image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), resample=Image.Resampling.BOX)
    scale = size / min(*image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), resample=Image.Resampling.BICUBIC)
    array = np.array(image)
    y, x = (array.shape[0] - size) // 2, (array.shape[1] - size) // 2
    return array[y : y + size, x : x + size]


@pytest.mark.parametrize("width_height", [(16, 16), (17, 33), (131, 40), (5, 9), (32, 31), (257, 99)])
def test_center_crop_is_adms(width_height: tuple[int, int]) -> None:
    image = noise(*width_height)
    assert np.array_equal(center_crop(image, 16), adm_center_crop(image, 16))


def test_crop_views_are_in_the_documented_order() -> None:
    image = noise(300, 290)
    center = adm_center_crop(image, 256)
    assert np.array_equal(crop_views(image, 256, "center"), center[None])
    assert np.array_equal(crop_views(image, 256, "flip"), [center, center[:, ::-1]])
    square, ten = adm_center_crop(image, 281), crop_views(image, 256, "ten")
    five = [square[:256, :256], square[:256, 25:], square[25:, :256], square[25:, 25:], square[12:268, 12:268]]
    assert np.array_equal(ten, five + [crop[:, ::-1] for crop in five])
    assert all(len(crop_views(image, 8, scheme)) == views for scheme, views in CROPS.items())


def test_random_crop_covers_scales_places_and_mirrors() -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 40, dtype=np.uint8)[None, :, None], (40, 40, 3))
    image, rng = Image.fromarray(ramp.copy()), np.random.default_rng(0)
    data = encoded(image)
    crops = [random_crop(data, 32, AUGMENT, rng) for _ in range(100)]
    assert {crop.shape for crop in crops} == {(3, 32, 32)}
    slopes = np.array([int(crop[0, 0, -1]) - int(crop[0, 0, 0]) for crop in crops])
    assert 30 < (slopes < 0).sum() < 70
    assert abs(slopes).min() < 210  # the shorter side stayed 40: a crop shows 4/5 of the width
    assert abs(slopes).max() > 250  # scaled to 32: a crop shows all of it
    still = AugmentParams(max_scale=1.0, flip=False, decoder="exact")
    plain = [random_crop(data, 32, still, rng) for _ in range(5)]
    assert all(np.array_equal(crop.permute(1, 2, 0), center_crop(image, 32)) for crop in plain)


@pytest.mark.parametrize("width_height", [(64, 48), (131, 40), (300, 257), (33, 200)])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_the_fast_crop_is_the_same_crop_and_nearly_the_same_pixels(width_height: tuple[int, int], format: str) -> None:
    data = encoded(noise(6, 5).resize(width_height, Image.Resampling.BICUBIC), format)
    fast = AUGMENT.model_copy(update={"decoder": "fast"})
    for seed in range(8):
        one, two = (random_crop(data, 32, augment, np.random.default_rng(seed)) for augment in (AUGMENT, fast))
        assert one.shape == two.shape
        assert (one.float() - two.float()).abs().mean() < 2  # of 255; a crop some pixels off differs far more


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_large_photo_is_decoded_smaller_and_cropped_alike(mode: str) -> None:
    photo = noise(6, 5).resize((1000, 700), Image.Resampling.BICUBIC).convert(mode)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    files = [encoded(photo, kind, exif=exif) for kind in ("JPEG", "PNG")]
    fast = AUGMENT.model_copy(update={"decoder": "fast"})
    for seed in range(8):
        small, whole = (random_crop(data, 32, fast, np.random.default_rng(seed)).float() for data in files)
        assert (small - whole).abs().mean() < 2  # of 255; a crop some pixels off differs far more
    reduced, *size = _decode_fast(files[0], 40)
    assert (reduced.shape, size) == ((3, 125, 88), [700, 1000])
    assert _decode_fast(files[0], 180)[0].shape == (3, 1000, 700)


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    write_shards(params(write_folder(SPLIT, tmp_path / "s")), 0, tmp_path / "o")
    tar = tmp_path / "o" / "train" / "000001.tar"
    content = bytearray(tar.read_bytes())
    content[600] ^= 1  # one bit of the first image, which may well still decode
    tar.write_bytes(content)
    with pytest.raises(PrologueError, match=r"train/000001\.tar is damaged at byte 512"):
        list(training_batches(ImageShards(tmp_path / "o", "train"), CROP, 0, 8, 0, 1, 0, 1))
    tar.write_bytes(content[:600])
    with pytest.raises(PrologueError, match=r"train/000001\.tar is shorter than its index says"):
        list(training_batches(ImageShards(tmp_path / "o", "train"), CROP, 0, 8, 0, 1, 0, 1))


def batches(
    images: ImageShards, start: int, stop: int, rank: int = 0, processes: int = 1, batch: int = 6
) -> list[Batch]:
    return list(training_batches(images, CROP, 0, batch, start, stop, rank, processes))


def test_training_resumes_at_any_step(shards: Path) -> None:
    images = ImageShards(shards, "train")
    whole = batches(images, 0, 7)
    for (pixels, labels), (again, labels_again) in zip(whole[4:], batches(images, 4, 7), strict=True):
        assert torch.equal(pixels, again)
        assert torch.equal(labels, labels_again)
    pixels, labels = whole[0]
    assert (pixels.shape, pixels.dtype, labels.dtype) == ((6, 3, 8, 8), torch.uint8, torch.int64)


def test_processes_share_each_global_batch(shards: Path) -> None:
    images = ImageShards(shards, "train")
    halves = [batches(images, 2, 4, rank, 2) for rank in (0, 1)]
    for whole, *parts in zip(batches(images, 2, 4), *halves, strict=True):
        for place in 0, 1:
            assert torch.equal(whole[place], torch.cat([part[place] for part in parts]))
    with pytest.raises(PrologueError, match="6 cannot be divided over 4"):
        batches(images, 0, 1, processes=4)


def test_each_epoch_shows_each_image_once_and_anew(shards: Path, tmp_path: Path) -> None:
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


def test_each_image_is_augmented_on_its_own(tmp_path: Path) -> None:
    source = write_folder({f"a/{n}.png": encoded(noise()) for n in range(12)}, tmp_path / "s")
    write_shards(params(source), 0, tmp_path / "o")
    ((pixels, _),) = batches(ImageShards(tmp_path / "o", "train"), 0, 1)
    assert len(pixels.unique(dim=0)) > 1


def test_loader_workers_change_nothing(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = ImageShards(shards, "train")
    state = torch.get_rng_state()
    alone = batches(images, 0, 4)
    assert torch.equal(torch.get_rng_state(), state), "loading must leave the global random state alone"
    monkeypatch.setenv("PROLOGUE_WORKERS", "2")
    for one, other in zip(alone, batches(images, 0, 4), strict=True):
        assert torch.equal(one[0], other[0])


def test_view_batches_keep_the_order_of_the_indices(shards: Path) -> None:
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
