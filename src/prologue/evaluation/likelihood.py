"""How well the AR model predicts validation tokens, at every position (Sec. 2.1)."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from prologue.core.files import replacing
from prologue.core.launch import progress
from prologue.core.runtime import start_accelerator
from prologue.core.sharing import gather_blocks, own_block
from prologue.figures.likelihood import draw_positions
from prologue.measures.likelihood import have_partners, nats_per_image, per_position, summarise
from prologue.models.saved import load_ar
from prologue.tokens.cache import TokenCache
from prologue.tokens.likelihood import token_losses

CHUNK = 1000  # images between two moves of the progress bar


def evaluate_ar(ar_folder: Path, tokens: Path, figures: Path) -> dict[str, Any]:
    """Likelihood of all validation tokens; writes per_position.csv, .svg and .png to the folder `figures`.

    Returns:
        As `evaluate_likelihood`, nats per image by segment, and the mean entropies of the predictions:
        conditional_entropy of each segment.
    """
    accelerator = start_accelerator()
    ar, cache = load_ar(ar_folder, accelerator.device), TokenCache(tokens, "val")
    own = own_block(len(cache), accelerator)
    chunks = progress(np.split(own, range(CHUNK, len(own), CHUNK)), "likelihood", f"{CHUNK} images")
    parts = [token_losses(ar, cache, chunk, entropies=True) for chunk in chunks]
    rows = {
        name: gather_blocks(torch.cat([part[name] for part in parts]), len(cache), accelerator) for name in parts[0]
    }
    table = per_position(rows, ar.vocabulary)
    if accelerator.is_main_process:
        with replacing(figures) as folder:
            folder.mkdir()
            table.to_csv(folder / "per_position.csv", index=False)
            draw_positions(table, folder / "per_position.png")
    accelerator.wait_for_everyone()
    entropies = table.groupby("segment")["entropy"].mean()
    named = {f"{segment}_conditional_entropy": float(entropies[segment]) for segment in entropies.index}
    nats = nats_per_image(rows, ar.vocabulary)
    means = summarise(rows, ar.vocabulary, have_partners(cache.labels))
    return {**means, "nats": nats, **named, "images": len(cache), "weights": "raw"}
