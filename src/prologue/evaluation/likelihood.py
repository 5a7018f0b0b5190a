"""How well the AR model predicts validation tokens, and what an image's own prologue tells it (Sec. 2.1)."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from prologue.data.tokens import TokenCache
from prologue.evaluation.features import gather, share
from prologue.figures.style import BLUE, MUTED, ORANGE, save, styled
from prologue.files import replacing
from prologue.launch import progress
from prologue.models.ar import ARModel
from prologue.models.export import load_ar
from prologue.models.vocabulary import Vocabulary
from prologue.runtime import start_accelerator

CHUNK = 1000  # images between two moves of the progress bar
MAX_BATCH = 250
MAX_LOGITS = 2**25  # of a batch; ImageNet's vocabulary over all positions of 250 images would take gigabytes


def evaluate_ar(ar_folder: Path, tokens: Path, figures: Path) -> dict[str, Any]:
    """Likelihood of all validation tokens; writes per_position.csv, .svg and .png to the folder `figures`.

    Returns:
        As `evaluate_likelihood`, and the mean entropies of the predictions: conditional_entropy of each segment.
    """
    accelerator = start_accelerator()
    ar, cache = load_ar(ar_folder, accelerator.device), TokenCache(tokens, "val")
    own = share(len(cache), accelerator)
    chunks = progress(np.split(own, range(CHUNK, len(own), CHUNK)), "likelihood", f"{CHUNK} images")
    parts = [token_losses(ar, cache, chunk) for chunk in chunks]
    rows = {name: gather(torch.cat([part[name] for part in parts]), len(cache), accelerator) for name in parts[0]}
    table = per_position(rows, ar.vocabulary)
    if accelerator.is_main_process:
        with replacing(figures) as folder:
            folder.mkdir()
            table.to_csv(folder / "per_position.csv", index=False)
            draw_positions(table, folder / "per_position.png")
    accelerator.wait_for_everyone()
    entropies = table.groupby("segment")["entropy"].mean()
    named = {f"{segment}_conditional_entropy": float(entropies[segment]) for segment in entropies.index}
    return {**summarise(rows, ar.vocabulary), **named, "images": len(cache), "weights": "raw"}


def evaluate_likelihood(ar: ARModel, cache: TokenCache, images: npt.NDArray[np.int64]) -> dict[str, float]:
    """Cross-entropy of the cache's `images` (indices) given their classes, in nats per token of each segment.

    With a prologue also `prologue_gain_nats`: how much lower the loss of an image's visual tokens is, in nats per
    image, with its own prologue than with another image's of the same class. It estimates the information that the
    prologue carries about the visual tokens beyond the class.
    """
    return summarise(token_losses(ar, cache, images), ar.vocabulary)


@torch.no_grad()
def token_losses(ar: ARModel, cache: TokenCache, images: npt.NDArray[np.int64]) -> dict[str, Tensor]:
    """What the model says of each token of images (n indices), in nats, on the CPU.

    Returns:
        loss (n, length), the cross-entropy of each token; entropy (n, length), that of the prediction; with a prologue
        swapped (n,), the loss of all visual tokens after the prologue of another image of the class.
    """
    device, vocabulary = ar.token_embedding.weight.device, ar.vocabulary
    others = same_class_partners(cache.labels)
    batch = max(1, min(MAX_BATCH, MAX_LOGITS // (vocabulary.length * vocabulary.size)))
    parts: dict[str, list[Tensor]] = {}
    for indices in np.split(images, range(batch, len(images), batch)):
        tokens = cache.read(indices)
        visual, classes = tokens.visual.to(device), torch.from_numpy(cache.labels[indices]).to(device)
        prologue = tokens.prologue.to(device) if tokens.prologue is not None else None
        logits = ar(prologue, visual, classes).float()
        parts.setdefault("loss", []).append(ar.token_losses(logits, prologue, visual).cpu())
        log_p = logits.log_softmax(dim=-1)
        parts.setdefault("entropy", []).append(-(log_p.exp() * log_p).sum(dim=-1).cpu())
        if prologue is not None:
            partner = cache.read(others[indices]).prologue
            assert partner is not None
            partner = partner.to(device)
            swapped = ar.token_losses(ar(partner, visual, classes), partner, visual)
            parts.setdefault("swapped", []).append(swapped[:, vocabulary.prefix :].sum(dim=1).cpu())
    return {name: torch.cat(values) for name, values in parts.items()}


def summarise(rows: dict[str, Tensor], vocabulary: Vocabulary) -> dict[str, float]:
    """Means of `token_losses`, as `evaluate_likelihood` returns them."""
    loss = rows["loss"].double()
    result = {"loss": loss.mean().item(), "visual_loss": loss[:, vocabulary.prefix :].mean().item()}
    if vocabulary.prologue_tokens:
        result["prologue_loss"] = loss[:, : vocabulary.prologue_tokens].mean().item()
        own = loss[:, vocabulary.prefix :].sum(dim=1)
        result["prologue_gain_nats"] = (rows["swapped"].double() - own).mean().item()
    return result


def per_position(rows: dict[str, Tensor], vocabulary: Vocabulary) -> pd.DataFrame:
    """Mean loss and entropy in nats at each position of the sequence, with the segment that it belongs to."""
    tokens = vocabulary.prologue_tokens
    segments = ["prologue"] * tokens + ["eos"] * (vocabulary.prefix - tokens) + ["visual"] * vocabulary.visual_tokens
    means = {name: rows[name].double().mean(dim=0).numpy() for name in ("loss", "entropy")}
    return pd.DataFrame({"position": range(vocabulary.length), "segment": segments, **means})


def draw_positions(table: pd.DataFrame, path: Path) -> None:
    """Chart of `per_position`: what each token costs and how unsure the model is of it, with the prologue marked."""
    with styled():
        figure = Figure(figsize=(7, 3.4), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(table["position"], table["loss"], color=BLUE, label="loss of the token")
        axes.plot(table["position"], table["entropy"], "--", color=ORANGE, label="entropy of the prediction")
        visual = table.loc[table["segment"] == "visual", "position"].min()
        if visual:
            axes.axvspan(-0.5, visual - 0.5, color=MUTED, alpha=0.12, linewidth=0, label="prologue and EOS")
        axes.set(xlabel="position in the sequence", ylabel="nats", xlim=(-0.5, len(table) - 0.5), ylim=(0, None))
        axes.set_title("What each token costs, given all before it")
        axes.legend()
        save(figure, path)


def same_class_partners(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """For each image the index of another of its class: the next one, in a circle (itself where it is the only one)."""
    partners = np.arange(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        partners[members] = np.roll(members, -1)
    return partners
