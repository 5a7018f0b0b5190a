"""A start of the prologue's codebook that depends on data, so that its codes are used from the first step.

Not of the paper, whose codebook starts at random: there all images of a short run may find the same few codes nearest.
"""

import torch

from prologue.core.errors import PrologueError
from prologue.data.images import ImageShards
from prologue.data.loader import view_batches
from prologue.data.order import evenly_spaced
from prologue.models.tokenizer import Tokenizer

BATCH = 32  # images encoded at once


@torch.no_grad()
def start_from_data(tokenizer: Tokenizer, images: ImageShards) -> None:
    """Set code number c of the prologue to what the untrained encoder makes of one token of the c-th image.

    The images lie evenly in the training set, and the tokens take turns. Raises PrologueError where they are too few.
    """
    quantizer, tokens = tokenizer.prologue_quantizer, tokenizer.prologue_tokens
    assert quantizer is not None
    device = quantizer.codebook.weight.device
    if len(images) < quantizer.codes:
        raise PrologueError(
            f"prologue.start: data takes each of the prologue.codebook = {quantizer.codes} codes from another training "
            f"image, and there are {len(images)}; choose a smaller prologue.codebook, or prologue.start: random"
        )
    positions = evenly_spaced(len(images), quantizer.codes)
    vectors = []
    for views, _ in view_batches(images, tokenizer.config.image_size, "center", positions, BATCH):
        features = tokenizer.encoder_features(views[:, 0].to(device)).prologue
        assert features is not None
        vectors.append(quantizer.project(features))
    turns = torch.arange(quantizer.codes, device=device)
    quantizer.codebook.weight.copy_(torch.cat(vectors)[turns, turns % tokens])
