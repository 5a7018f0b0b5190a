"""What the AR model attends to: maps of every layer, measured on validation images and drawn (Sec. 4.2)."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from prologue.core.files import replacing
from prologue.core.launch import progress
from prologue.core.runtime import in_float64, start_accelerator
from prologue.core.sharing import own_tasks
from prologue.data.images import ImageShards
from prologue.data.loader import view_batches
from prologue.data.order import evenly_spaced
from prologue.figures.attention import draw_attention_maps, draw_attention_shares, draw_prologue_attention
from prologue.measures.attention import attention_shares, attention_to_prologue, uniform_attention
from prologue.models.ar import ARModel
from prologue.models.config import TokenizerConfig
from prologue.models.saved import load_ar, load_tokenizer
from prologue.models.transformer import Block, Transformer, attention_weights
from prologue.tokens.cache import TokenCache

IMAGES = 256  # validation images that maps are averaged over
SHOWN = 4  # images whose own maps are drawn, one of each of the first classes
BATCH = 8  # images at once: a layer's weights in the largest model (20 heads, 273 positions) take 48 MB


def evaluate_attention(
    ar_folder: Path, tokenizer_folder: Path, tokens: Path, shards: Path, figures: Path
) -> dict[str, Any]:
    """Measure what the AR model attends to on validation images, given their classes, and draw it.

    Writes attention_maps, attention_shares and, with a prologue and a grid of visual tokens, prologue_attention to
    `figures`, each as SVG and PNG.

    Returns:
        attention_to_PART for the parts of `parts_read`: the share of the visual positions' attention, mean over heads
        and images, by layer, as the mean of the layers, and as it would be if every input got as much ('uniform').
    """
    accelerator = start_accelerator()
    ar = load_ar(ar_folder, accelerator.device)
    vocabulary, config = ar.vocabulary, load_tokenizer(tokenizer_folder).config
    width = config.grid if config.tokenizer.layout == "2d" else None
    cache = TokenCache(tokens, "val")
    images = evenly_spaced(len(cache), IMAGES)
    maps = mean_attention(ar, cache, images, accelerator)
    shares = attention_shares(maps, vocabulary, width)
    uniform = attention_shares(uniform_attention(vocabulary.length), vocabulary, width)
    if accelerator.is_main_process:
        with replacing(figures) as folder:
            folder.mkdir()
            draw_attention_maps(folder / "attention_maps", maps.numpy(), vocabulary, width)
            draw_attention_shares(folder / "attention_shares", shares, uniform)
            if width and vocabulary.prologue_tokens:
                pixels, own = _shown_images(ar, cache, ImageShards(shards, "val"), config)
                mean = attention_to_prologue(maps, vocabulary, width).numpy()
                draw_prologue_attention(folder / "prologue_attention", pixels, own, mean, len(images))
    metrics: dict[str, Any] = {"images": len(images)}
    for part, share in shares.items():
        by_layer = [round(value, 5) for value in share]
        metrics[f"attention_to_{part}"] = {
            "mean": round(float(np.mean(share)), 5),
            "uniform": round(uniform[part][0], 5),
            "by_layer": by_layer,
        }
    return metrics


@contextmanager
def watching(transformer: Transformer, see: Callable[[Tensor], None]) -> Iterator[None]:
    """Context in which every block calls `see` with its attention weights (B, heads, T, T), in the order of the layers.

    The weights are made of the block's own queries and keys, of the very input that its forward pass gets.
    """

    def look(block: Block, inputs: tuple[Tensor, Tensor, bool]) -> None:
        x, rotary, causal = inputs
        q, k, _ = block.start(x, rotary)
        see(attention_weights(q, k, causal))

    with ExitStack() as hooks:
        for block in transformer.blocks:
            hooks.callback(block.register_forward_pre_hook(look).remove)
        yield


@torch.no_grad()
def image_attention(ar: ARModel, cache: TokenCache, images: NDArray[np.int64]) -> Tensor:
    """Attention of every layer, mean over heads, on the cache's `images` (indices (B,)): fp32 (layers, B, T, T).

    Row t of a map holds what position t takes of each input, and sums to 1. The model must be in eval mode.
    """
    device = ar.token_embedding.weight.device
    tokens = cache.read(images)
    prologue = tokens.prologue.to(device) if tokens.prologue is not None else None
    maps: list[Tensor] = []
    with watching(ar.transformer, lambda weights: maps.append(weights.mean(dim=1))):
        ar(prologue, tokens.visual.to(device), torch.from_numpy(cache.labels[images]).to(device))
    return torch.stack(maps)


def mean_attention(ar: ARModel, cache: TokenCache, images: NDArray[np.int64], accelerator: Accelerator) -> Tensor:
    """Attention of every layer, mean over heads and the cache's `images` (Fig. 6, A2): float64 (layers, T, T), on CPU.

    Processes take turns with the images; all get the result.
    """
    shape = (ar.config.transformer.layers, ar.vocabulary.length, ar.vocabulary.length)
    total = in_float64(torch.zeros(shape, device=accelerator.device))
    own = own_tasks(images, accelerator.process_index, accelerator.num_processes)
    batches = [own[start : start + BATCH] for start in range(0, len(own), BATCH)]
    for batch in progress(batches, "attention", "batch"):
        total += in_float64(image_attention(ar, cache, batch)).sum(dim=1)
    summed = accelerator.reduce(total, "sum")
    assert isinstance(summed, Tensor)
    return summed.cpu() / len(images)


def _shown_images(
    ar: ARModel, cache: TokenCache, real: ImageShards, config: TokenizerConfig
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """One image of each of the first classes, (N, H, W, 3), and its attention to the prologue (N, Np, rows, width)."""
    chosen = np.unique(real.labels, return_index=True)[1][:SHOWN]
    views, _ = next(view_batches(real, config.image_size, "center", chosen, len(chosen)))
    own = attention_to_prologue(image_attention(ar, cache, chosen), ar.vocabulary, config.grid)
    return views[:, 0].permute(0, 2, 3, 1).numpy(), own.cpu().numpy()
