"""What an AR model says of cached tokens, and what an image's own prologue tells it (Sec. 2.1)."""

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch import Tensor

from prologue.core.sharing import gather_blocks, own_block
from prologue.measures.likelihood import have_partners, same_class_partners, summarise
from prologue.models.ar import ARModel, cross_entropy
from prologue.tokens.cache import TokenCache

MAX_BATCH = 64
BATCH_LOGITS = 2**25  # at most; ImageNet's vocabulary over all positions of many images would take gigabytes


def evaluate_likelihood(
    ar: ARModel, cache: TokenCache, images: npt.NDArray[np.int64], accelerator: Accelerator
) -> dict[str, float]:
    """Cross-entropy of the cache's `images` (indices) given their classes, in nats per token of each segment.

    All processes share the images.

    With a prologue also `prologue_gain_nats`: how much lower the loss of an image's visual tokens is, in nats per
    image, with its own prologue than with another image's of the same class. It estimates the information that the
    prologue carries about the visual tokens beyond the class. Images that are alone in theirs are left out of it, and
    it is left out where all are.
    """
    own = token_losses(ar, cache, images[own_block(len(images), accelerator)])
    rows = {name: gather_blocks(values, len(images), accelerator) for name, values in own.items()}
    return summarise(rows, ar.vocabulary, have_partners(cache.labels)[images])


@torch.no_grad()
def token_losses(
    ar: ARModel, cache: TokenCache, images: npt.NDArray[np.int64], entropies: bool = False
) -> dict[str, Tensor]:
    """What the model says of each token of images (n indices), in nats, on the CPU.

    Returns:
        loss (n, length), the cross-entropy of each token; with `entropies` entropy (n, length), that of the prediction;
        with a prologue swapped (n,), the loss of all visual tokens after the prologue of another image of the class,
        its own where there is none.
    """
    device, vocabulary = ar.token_embedding.weight.device, ar.vocabulary
    others = same_class_partners(cache.labels)
    batch = max(1, min(MAX_BATCH, BATCH_LOGITS // (vocabulary.length * vocabulary.size)))
    parts: dict[str, list[Tensor]] = {}
    for indices in np.split(images, range(batch, len(images), batch)):
        tokens = cache.read(indices)
        visual, classes = tokens.visual.to(device), torch.from_numpy(cache.labels[indices]).to(device)
        prologue = tokens.prologue.to(device) if tokens.prologue is not None else None
        logits = ar(prologue, visual, classes).float()
        parts.setdefault("loss", []).append(cross_entropy(logits, vocabulary.sequence(prologue, visual)).cpu())
        if entropies:
            log_p = logits.log_softmax(dim=-1)
            parts.setdefault("entropy", []).append(-(log_p.exp() * log_p).sum(dim=-1).cpu())
        if prologue is not None:
            partner = cache.read(others[indices]).prologue
            assert partner is not None
            partner = partner.to(device)
            swapped = ar.losses(partner, visual, classes)
            parts.setdefault("swapped", []).append(swapped[:, vocabulary.prefix :].sum(dim=1).cpu())
    return {name: torch.cat(values) for name, values in parts.items()}
