"""Square uint8 crops: by Pillow exactly as ADM resamples, or by torchvision, faster and nearly the same.

And the random resized crops that classifiers train on.
"""

import math
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from prologue.core.params import AugmentParams
from prologue.data.images import open_image, orientation, to_rgb

Pixels = NDArray[np.uint8]

CROPS = {"center": 1, "flip": 2, "ten": 10}  # views per image of each scheme
CENTRED = {1: 0, 2: 0, 10: 4}  # by how many views there are: the one from the centre
TEN_CROP_SCALE = 281 / 256  # side of the square that the ten crops are cut from, relative to theirs
AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of a random resized crop: share of the image, width / height
TURNED = 5  # orientations from this one on exchange width and height
ATTEMPTS = 10  # to draw one that lies within the image


class Cropper(Protocol):
    """What cuts a training image out of an image file: a square uint8 (3, size, size), drawn from `rng` alone."""

    def __call__(self, data: bytes, *, rng: np.random.Generator) -> Tensor:
        """The crop of one file."""


class Crop(NamedTuple):
    """A square of an image that is scaled to `height` x `width` px first; mirrored where `flip`."""

    height: int
    width: int
    top: int
    left: int
    flip: bool


def center_crop(image: Image.Image, size: int) -> Pixels:
    """ADM's crop: shorter side scaled to `size`, then the centre square. uint8 (size, size, 3)."""
    pixels = _resize_shorter_side(image, size)
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top : top + size, left : left + size]


def random_crop(data: bytes, size: int, augment: AugmentParams, rng: np.random.Generator) -> Tensor:
    """A random square of an image file whose shorter side is drawn from size to round(max_scale * size) px.

    `augment.flip` mirrors half of the crops; `augment.decoder` is exact (Pillow, resampling as ADM does) or fast
    (torchvision; benchmarks/loading.py measures the difference). uint8 (3, size, size).
    """
    return EXACT_OR_FAST[augment.decoder](data, size, augment, rng)


def _exact_crop(data: bytes, size: int, augment: AugmentParams, rng: np.random.Generator) -> Tensor:
    image = to_rgb(open_image(data))
    crop = _draw_crop(image.width, image.height, size, augment, rng)
    pixels = _resize_shorter_side(image, min(crop.height, crop.width))
    cut = pixels[crop.top : crop.top + size, crop.left : crop.left + size]
    return torch.from_numpy(np.array(cut[:, ::-1] if crop.flip else cut)).permute(2, 0, 1)


def _fast_crop(data: bytes, size: int, augment: AugmentParams, rng: np.random.Generator) -> Tensor:
    from torchvision.transforms.v2 import InterpolationMode  # takes seconds to load, and the exact way does without
    from torchvision.transforms.v2 import functional as F

    pixels, width, height = _decode_fast(data, round(augment.max_scale * size))
    crop = _draw_crop(width, height, size, augment, rng)
    pixels = F.resize(pixels, [crop.height, crop.width], InterpolationMode.BICUBIC, antialias=True)
    cut = pixels[:, crop.top : crop.top + size, crop.left : crop.left + size]
    return cut.flip(-1) if crop.flip else cut


EXACT_OR_FAST = {"exact": _exact_crop, "fast": _fast_crop}


def _decode_fast(data: bytes, side: int) -> tuple[Tensor, int, int]:
    """Pixels of an image file, upright RGB uint8 (3, H, W), and the width and height of the whole image.

    Plain JPEGs by torchvision, all else by Pillow, and so JPEGs whose shorter side is four times `side` px or more:
    these are decoded at a half, a quarter or an eighth of their size, never to less than twice `side`.
    """
    image = open_image(data)
    whole = image.size
    is_jpeg = image.format in ("JPEG", "MPO")
    if is_jpeg and min(whole) >= 4 * side:
        image.draft(image.mode, (2 * side, 2 * side))
    elif image.format == "JPEG" and image.mode in ("RGB", "L"):
        pixels = _decoded_by_torchvision(data)
        if pixels is not None and pixels.shape[1:] == (image.height, image.width):
            upright = _upright(pixels, orientation(image))
            return upright, upright.shape[2], upright.shape[1]
    pixels = torch.from_numpy(np.array(to_rgb(image))).permute(2, 0, 1)
    width, height = whole[::-1] if orientation(image) >= TURNED else whole
    return pixels, width, height


def _decoded_by_torchvision(data: bytes) -> Tensor | None:
    """Pixels of a JPEG as its file has them; None where torchvision is stricter than Pillow with what editors write."""
    from torchvision.io import ImageReadMode, decode_jpeg

    try:
        pixels: Tensor = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    except RuntimeError:
        return None
    return pixels


def _upright(pixels: Tensor, turn: int) -> Tensor:
    """Pixels (3, H, W) turned as `to_rgb` turns an image of this orientation."""
    if turn >= TURNED:
        pixels = pixels.transpose(1, 2)
    mirrored = [dim for dim, turns in ((1, (3, 4, 7, 8)), (2, (2, 3, 6, 7))) if turn in turns]
    return pixels.flip(mirrored) if mirrored else pixels


def _draw_crop(width: int, height: int, size: int, augment: AugmentParams, rng: np.random.Generator) -> Crop:
    """A random square of `size` px of an image of this size."""
    target = int(rng.integers(size, round(augment.max_scale * size), endpoint=True))
    width, height = _scaled(width, height, target)
    top = int(rng.integers(height - size, endpoint=True))
    left = int(rng.integers(width - size, endpoint=True))
    return Crop(height, width, top, left, augment.flip and bool(rng.random() < 0.5))


def random_resized_crop(data: bytes, size: int, rng: np.random.Generator) -> Tensor:
    """torchvision's RandomResizedCrop and RandomHorizontalFlip on Pillow images, which MAE trains on.

    A part of 0.08 to 1 of the image, 3:4 to 4:3, at a random place is scaled to the square by Pillow's bicubic filter;
    half of the crops are mirrored. uint8 (3, size, size).
    """
    image = to_rgb(open_image(data))
    left, top, width, height = _draw_part(image.width, image.height, rng)
    part = image.crop((left, top, left + width, top + height)).resize((size, size), Image.Resampling.BICUBIC)
    pixels = np.asarray(part)
    return torch.from_numpy(np.array(pixels[:, ::-1] if rng.random() < 0.5 else pixels)).permute(2, 0, 1)


def _draw_part(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, width and height of a random resized crop: torchvision's draw, and its fallback."""
    for _ in range(ATTEMPTS):
        area = width * height * rng.uniform(*AREA)
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(width - w, endpoint=True)), int(rng.integers(height - h, endpoint=True)), w, h
    w, h = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))  # all of it, or its centre
    return (width - w) // 2, (height - h) // 2, w, h


def crop_views(image: Image.Image, size: int, scheme: str) -> Pixels:
    """The fixed views of an image by which it is tokenized: uint8 (CROPS[scheme], size, size, 3).

    'center' is ADM's crop; 'flip' adds its mirror image; 'ten' cuts top left, top right, bottom left, bottom right
    and centre from a larger ADM crop (281 px for 256), followed by the mirror images of these five.
    """
    if scheme == "ten":
        square = center_crop(image, round(TEN_CROP_SCALE * size))
        end = len(square) - size
        corners = [(0, 0), (0, end), (end, 0), (end, end), (end // 2, end // 2)]
        views = np.stack([square[top : top + size, left : left + size] for top, left in corners])
    else:
        views = center_crop(image, size)[None]
    return views if scheme == "center" else np.concatenate([views, views[:, :, ::-1]])


def _resize_shorter_side(image: Image.Image, target: int) -> Pixels:
    """ADM's resampling: halves by box while twice too large, then bicubic. uint8 (H, W, 3) of min(H, W) = target."""
    scaled = _scaled(image.width, image.height, target)
    while min(image.size) >= 2 * target:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    return np.asarray(image.resize(scaled, Image.Resampling.BICUBIC))


def _scaled(width: int, height: int, target: int) -> tuple[int, int]:
    """Width and height of an image after `_resize_shorter_side`."""
    while min(width, height) >= 2 * target:
        width, height = width // 2, height // 2
    scale = target / min(width, height)
    return round(width * scale), round(height * scale)
