"""Photograph-like JPEGs in class folders, for the benchmarks of the data pipeline: sizes and bytes as in ImageNet."""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

CLASSES, SIZE, QUALITY = 10, (500, 375), 90  # about 110 kB each


def write_photos(folder: Path, count: int) -> None:
    """Write `count` JPEGs to FOLDER/class/number.jpg; every one is another crop of one large textured picture."""
    rng = np.random.default_rng(0)
    width, height = 3 * SIZE[0], 3 * SIZE[1]
    layers = [gaussian_filter(rng.normal(size=(height, width, 3)), (blur, blur, 0)) * blur for blur in (1, 4, 16, 64)]
    scene = sum(layers)
    pixels = ((scene - scene.min()) / np.ptp(scene) * 255).astype(np.uint8)
    for number in range(count):
        top, left = rng.integers(height - SIZE[1]), rng.integers(width - SIZE[0])
        path = folder / f"class {number % CLASSES}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[top : top + SIZE[1], left : left + SIZE[0]]).save(path, quality=QUALITY)
