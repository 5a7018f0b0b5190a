"""Pictures that are drawn at every validation of a training, for `prologue watch`."""

import torch
from PIL.Image import Image

from prologue.data.images import ImageShards
from prologue.data.order import evenly_spaced
from prologue.evaluation.pairs import reconstruction_pairs
from prologue.figures.grids import image_grid
from prologue.figures.samples import COLUMNS
from prologue.models.ar import ARModel
from prologue.models.tokenizer import Tokenizer
from prologue.sampling import generate
from prologue.sampling.images import decode


def reconstruction_grid(tokenizer: Tokenizer, images: ImageShards, count: int) -> Image:
    """A row of `count` validation images, always the same, above a row of their reconstructions."""
    return reconstruction_pairs(tokenizer, images, evenly_spaced(len(images), count), count)


def sample_grid(ar: ARModel, tokenizer: Tokenizer, count: int) -> Image:
    """`count` samples without guidance, classes in turn, always of the same seeds."""
    device = ar.token_embedding.weight.device
    classes = torch.arange(count, device=device) % ar.vocabulary.classes
    images = decode(tokenizer.to(device), generate(ar, classes).visual)
    return image_grid(images, columns=min(count, COLUMNS))
