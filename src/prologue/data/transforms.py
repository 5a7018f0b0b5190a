"""Square uint8 crops of PIL images."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

CROPS = {"center": 1, "flip": 2, "ten": 10}  # views per image of each scheme
TEN_CROP_SCALE = 281 / 256  # side of the square that the ten crops are cut from, relative to theirs


def center_crop(image: Image.Image, size: int) -> Pixels:
    """ADM's crop: shorter side scaled to `size`, then the centre square. uint8 (size, size, 3)."""
    pixels = _resize_shorter_side(image, size)
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top : top + size, left : left + size]


def random_crop(image: Image.Image, size: int, max_scale: float, flip: bool, rng: np.random.Generator) -> Pixels:
    """A random square of an image whose shorter side is drawn from size to round(max_scale * size) px.

    `flip` mirrors half of the crops. uint8 (size, size, 3).
    """
    pixels = _resize_shorter_side(image, int(rng.integers(size, round(max_scale * size), endpoint=True)))
    top = rng.integers(pixels.shape[0] - size, endpoint=True)
    left = rng.integers(pixels.shape[1] - size, endpoint=True)
    crop = pixels[top : top + size, left : left + size]
    return crop[:, ::-1] if flip and rng.random() < 0.5 else crop


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
    while min(image.size) >= 2 * target:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = target / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    return np.asarray(image)
