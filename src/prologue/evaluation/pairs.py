"""Images beside what the tokenizer makes of them."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from prologue.data.images import ImageShards
from prologue.data.loader import view_batches
from prologue.figures.grids import pair_grid
from prologue.models.tokenizer import Tokenizer, to_uint8


def reconstruction_pairs(
    tokenizer: Tokenizer, images: ImageShards, chosen: NDArray[np.int64], columns: int
) -> Image.Image:
    """Pairs of rows of the chosen images: originals above reconstructions."""
    device = next(tokenizer.parameters()).device
    views, _ = next(view_batches(images, tokenizer.config.image_size, "center", chosen, len(chosen)))
    originals = views[:, 0]
    copies = to_uint8(tokenizer.decode(tokenizer.encode(originals.to(device)).visual)).cpu()
    originals, copies = (images.permute(0, 2, 3, 1) for images in (originals, copies))
    return pair_grid(originals.numpy(), copies.numpy(), columns)
