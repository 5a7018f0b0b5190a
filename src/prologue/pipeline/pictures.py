"""Pictures that are drawn at every validation of a training, for its curves."""

import numpy as np
import torch
from PIL.Image import Image

from prologue.data.images import ImageShards
from prologue.data.loader import view_batches
from prologue.figures.grids import image_grid
from prologue.figures.samples import COLUMNS
from prologue.models.ar import ARModel
from prologue.models.tokenizer import Tokenizer, to_uint8
from prologue.sampling import generate
from prologue.sampling.images import decode


def reconstruction_grid(tokenizer: Tokenizer, images: ImageShards, count: int) -> Image:
    """A row of `count` validation images above a row of their reconstructions."""
    device = next(tokenizer.parameters()).device
    chosen = np.linspace(0, len(images) - 1, count).astype(np.int64)
    views, _ = next(view_batches(images, tokenizer.config.image_size, "center", chosen, count))
    originals = views[:, 0].to(device)
    copies = to_uint8(tokenizer.decode(tokenizer.encode(originals).visual))
    rows = torch.cat((originals, copies)).permute(0, 2, 3, 1).cpu().numpy()
    return image_grid(rows, count, ["original", "reconstruction"])


def sample_grid(ar: ARModel, tokenizer: Tokenizer, count: int) -> Image:
    """`count` samples without guidance, classes in turn, always of the same seeds."""
    device = ar.token_embedding.weight.device
    classes = torch.arange(count, device=device) % ar.vocabulary.classes
    images = decode(tokenizer.to(device), generate(ar, classes).visual)
    return image_grid(images, columns=min(count, COLUMNS))
