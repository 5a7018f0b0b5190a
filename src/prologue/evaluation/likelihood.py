"""How well the AR model predicts validation tokens, and what an image's own prologue tells it (Sec. 2.1)."""

import numpy as np
import numpy.typing as npt
import torch

from prologue.data.tokens import TokenCache
from prologue.models.ar import ARModel

BATCH = 250


@torch.no_grad()
def evaluate_likelihood(ar: ARModel, cache: TokenCache, images: npt.NDArray[np.int64]) -> dict[str, float]:
    """Cross-entropy of the cache's `images` (indices) given their classes, in nats per token of each segment.

    With a prologue also `prologue_gain_nats`: how much lower the loss of an image's visual tokens is, in nats per
    image, with its own prologue than with another image's of the same class. It estimates the information that the
    prologue carries about the visual tokens beyond the class.
    """
    device = ar.token_embedding.weight.device
    vocabulary = ar.vocabulary
    others = same_class_partners(cache.labels)
    sums = {"prologue": 0.0, "eos": 0.0, "visual": 0.0, "swapped": 0.0}
    for indices in np.split(images, range(BATCH, len(images), BATCH)):
        tokens = cache.read(indices)
        visual = tokens.visual.to(device)
        classes = torch.from_numpy(cache.labels[indices]).to(device)
        prologue = tokens.prologue.to(device) if tokens.prologue is not None else None
        own = ar.loss(ar(prologue, visual, classes), prologue, visual)
        for segment in ("prologue", "eos", "visual"):
            sums[segment] += getattr(own, segment).sum().item()
        if prologue is not None:
            partner = cache.read(others[indices]).prologue
            assert partner is not None
            swapped = ar.loss(ar(partner.to(device), visual, classes), partner.to(device), visual)
            sums["swapped"] += swapped.visual.sum().item()
    count = len(images)
    total = sums["prologue"] + sums["eos"] + sums["visual"]
    result = {
        "loss": total / count / vocabulary.length,
        "visual_loss": sums["visual"] / count / vocabulary.visual_tokens,
    }
    if vocabulary.prologue_tokens:
        result["prologue_loss"] = sums["prologue"] / count / vocabulary.prologue_tokens
        result["prologue_gain_nats"] = (sums["swapped"] - sums["visual"]) / count
    return result


def same_class_partners(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """For each image the index of another of its class: the next one, in a circle (itself where it is the only one)."""
    partners = np.arange(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        partners[members] = np.roll(members, -1)
    return partners
