"""What an AR model's cross-entropies say of a set of images."""

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from prologue.models.vocabulary import Vocabulary


def summarise(rows: dict[str, Tensor], vocabulary: Vocabulary, partnered: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Means of `token_losses`, as `evaluate_likelihood` returns them; `partnered` (n,): where swapped is another's."""
    loss = rows["loss"].double()
    result = {"loss": loss.mean().item(), "visual_loss": loss[:, vocabulary.prefix :].mean().item()}
    if vocabulary.prologue_tokens:
        result["prologue_loss"] = loss[:, : vocabulary.prologue_tokens].mean().item()
        if partnered.any():
            own = loss[:, vocabulary.prefix :].sum(dim=1)
            gains = (rows["swapped"].double() - own)[torch.from_numpy(partnered)]
            result["prologue_gain_nats"] = gains.mean().item()
    return result


def nats_per_image(rows: dict[str, Tensor], vocabulary: Vocabulary) -> dict[str, float]:
    """What an image costs in nats by segment, and in all: a bound of -log p, comparable between models of its tokens.

    Systems compare where they have the same visual tokens, as a tokenizer with and without a prologue added to it.
    """
    segments = np.split(rows["loss"].double().numpy(), (vocabulary.prologue_tokens, vocabulary.prefix), axis=1)
    nats = {name: float(own.sum(1).mean()) for name, own in zip(("prologue", "eos", "visual"), segments, strict=True)}
    return nats | {"total": sum(nats.values())}


def per_position(rows: dict[str, Tensor], vocabulary: Vocabulary) -> pd.DataFrame:
    """Mean loss and entropy in nats at each position of the sequence, with the segment that it belongs to."""
    tokens = vocabulary.prologue_tokens
    segments = ["prologue"] * tokens + ["eos"] * (vocabulary.prefix - tokens) + ["visual"] * vocabulary.visual_tokens
    means = {name: rows[name].double().mean(dim=0).numpy() for name in ("loss", "entropy")}
    return pd.DataFrame({"position": range(vocabulary.length), "segment": segments, **means})


def same_class_partners(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """For each image the index of another of its class: the next one, in a circle (itself where it is the only one)."""
    partners = np.arange(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        partners[members] = np.roll(members, -1)
    return partners


def have_partners(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether each image has another of its class for a partner."""
    others: npt.NDArray[np.bool_] = same_class_partners(labels) != np.arange(len(labels))
    return others
