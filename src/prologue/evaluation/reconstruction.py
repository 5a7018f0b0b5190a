"""How well images come back from their visual tokens, and how the codebooks are used."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prologue.core.errors import PrologueError
from prologue.core.files import replacing, sha256
from prologue.core.launch import progress
from prologue.core.params import Params
from prologue.core.recipe import save_picture
from prologue.core.runtime import in_float64, start_accelerator
from prologue.core.sharing import gather_blocks, own_block
from prologue.data.images import MANIFEST, ImageShards
from prologue.data.loader import view_batches
from prologue.data.order import evenly_spaced
from prologue.evaluation.pairs import reconstruction_pairs
from prologue.evaluation.reference import MANIFOLD, Reference, load_reference, save_reference
from prologue.figures.codebooks import draw_code_usage
from prologue.frozen.extractor import Extractor
from prologue.frozen.perceptual import PerceptualLoss
from prologue.measures.codebooks import codebook_usage, count_codes
from prologue.measures.fidelity import frechet_distance, statistics
from prologue.measures.images import image_psnr, image_ssim
from prologue.measures.intervals import interval, paired_deviation
from prologue.measures.registry import metric_name
from prologue.models.saved import load_tokenizer
from prologue.models.tokenizer import Tokenizer, to_signed, to_uint8
from prologue.models.weights import weights_sha256

PERCEPTUAL_NAMES = {"vgg16": "lpips", "lite0": "perceptual_lite0"}
PAIRS_PER_ROW = 10
SHOWN_PAIRS = 20


def evaluate_reconstruction(
    params: Params, tokenizer_folder: Path, shards: Path, reference_folder: Path, output: Path, figures: Path
) -> dict[str, Any]:
    """Reconstruct every centre-cropped validation image; write reconstructions.png and codebook_usage.svg and .png.

    The folder `output` becomes the reference of the reconstructions, with which generated images are compared too.

    Returns:
        rfd_EXTRACTOR or rfid and its 95 % interval, psnr (dB), ssim, l1 (of pixels in [-1, 1]), lpips (VGG16) or
        perceptual_NETWORK, usage, entropy (nats), perplexity and id_consistency of each codebook (the share of ids
        that come back when a reconstruction is encoded again), throughput of encoding and decoding, and the
        protocol. All are of reconstructions rounded to uint8.

    Raises:
        PrologueError: the reference is missing, of another extractor, or of other images.
    """
    accelerator = start_accelerator()
    name = params.evaluation.extractor
    reference = load_reference(reference_folder, name)
    if reference.protocol["shards_sha256"] != sha256(shards / MANIFEST):
        raise PrologueError(f"{reference_folder} is of other images than {shards}; run the stage reference again")
    tokenizer = load_tokenizer(tokenizer_folder, accelerator.device)
    images = ImageShards(shards, "val")
    rows, rate = _reconstruct_block(
        tokenizer,
        Extractor(name, accelerator.device),
        PerceptualLoss(params.evaluation.perceptual).to(accelerator.device),
        images,
        own_block(len(images), accelerator),
        params.evaluation.batch,
    )
    rows = {key: gather_blocks(value, len(images), accelerator) for key, value in rows.items()}
    counts = _code_counts(tokenizer, rows)
    own = _reference(rows["pool"], reference)
    if accelerator.is_main_process:
        _draw_pairs(tokenizer, images, figures / "reconstructions.png")
        draw_code_usage(counts, figures / "codebook_usage")
        save_reference(output, own)
    distance = frechet_distance(own.statistics, reference.statistics)
    deviation = distance_deviation(own, reference)
    metrics: dict[str, Any] = {
        metric_name("rfd", name): distance,
        "interval": {metric_name("rfd", name): interval(distance, deviation)},
        **{key: rows[key].double().mean().item() for key in ("psnr", "ssim", "l1")},
        PERCEPTUAL_NAMES[params.evaluation.perceptual]: rows["perceptual"].double().mean().item(),
    }
    for codebook, counted in counts.items():
        usage, perplexity = codebook_usage(counted)
        metrics |= {
            f"{codebook}_usage": usage,
            f"{codebook}_entropy": math.log(perplexity),
            f"{codebook}_perplexity": perplexity,
            f"{codebook}_id_consistency": rows[f"{codebook}_same"].double().mean().item(),
        }
    protocol = {key: value for key, value in reference.protocol.items() if key != "is"}
    protocol |= {"weights": "ema", "rounding": "uint8"}
    return {**metrics, "images_per_second": round(rate * accelerator.num_processes, 1), **protocol}


def _draw_pairs(tokenizer: Tokenizer, images: ImageShards, output: Path) -> None:
    """Write the picture of originals above their reconstructions, classes in turn, with its recipe."""
    columns = min(PAIRS_PER_ROW, len(images))
    chosen = classes_in_turn(images.labels)[: SHOWN_PAIRS if len(images) >= SHOWN_PAIRS else columns]
    recipe = {"weights_sha256": weights_sha256(tokenizer), "picture": "reconstructions"}
    with replacing(output) as path:
        pairs = reconstruction_pairs(tokenizer, images, chosen, columns)
        save_picture(pairs, path, "png", recipe, "compositeWithTrainedAlgorithmicMedia")


def _reference(pool: Tensor, real: Reference) -> Reference:
    """The reference of reconstructions by their features (N, D), which are of the images of `real`."""
    protocol = {key: value for key, value in real.protocol.items() if key != "is"}
    return Reference(statistics(pool), pool[evenly_spaced(len(pool), MANIFOLD)], protocol)


def distance_deviation(reconstructions: Reference, real: Reference) -> float:
    """Standard deviation of their Frechet distance, from the images whose features are kept.

    That of m of n images is the root of n / m times as large.
    """
    assert reconstructions.manifold is not None
    assert real.manifold is not None
    share = len(real.manifold) / real.protocol["images"]
    return paired_deviation(reconstructions.manifold, real.manifold) * math.sqrt(share)


def _reconstruct_block(
    tokenizer: Tokenizer,
    extractor: Extractor,
    perceptual: PerceptualLoss,
    images: ImageShards,
    positions: NDArray[np.int64],
    batch: int,
) -> tuple[dict[str, Tensor], float]:
    """Per-image results of this process's block by name, and images encoded and decoded per second."""
    parts: dict[str, list[Tensor]] = {}
    seconds = 0.0
    batches = view_batches(images, tokenizer.config.image_size, "center", positions, batch)
    for views, _ in progress(batches, "reconstructions", "batch", math.ceil(len(positions) / batch)):
        originals = views[:, 0].to(extractor.device)
        started = time.perf_counter()
        tokens = tokenizer.encode(originals)
        copies = to_uint8(tokenizer.decode(tokens.visual))
        result = {
            "l1": (in_float64(copies) - in_float64(originals)).abs().flatten(1).mean(1).cpu() / 127.5,  # waits for it
            "visual": tokens.visual,
        }
        seconds += time.perf_counter() - started
        again = tokenizer.encode(copies)
        result["visual_same"] = (again.visual == tokens.visual).float()
        if tokens.prologue is not None and again.prologue is not None:
            result["prologue"] = tokens.prologue
            result["prologue_same"] = (again.prologue == tokens.prologue).float()
        result["psnr"] = image_psnr(copies, originals)
        result["ssim"] = image_ssim(copies, originals)
        with torch.no_grad():
            result["perceptual"] = perceptual(to_signed(copies), to_signed(originals))
        result["pool"], _ = extractor(copies)
        for key, value in result.items():
            parts.setdefault(key, []).append(value)
    return {key: torch.cat(values) for key, values in parts.items()}, len(positions) / seconds


def _code_counts(tokenizer: Tokenizer, rows: dict[str, Tensor]) -> dict[str, Tensor]:
    """How often each code of each codebook stands for an image."""
    return {name: count_codes(rows[name], codes) for name, codes in tokenizer.codebooks.items()}


def classes_in_turn(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions ordered so that every class comes once before any comes twice."""
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], labels[order])
    rank = np.empty(len(labels), dtype=np.int64)
    rank[order] = np.arange(len(labels)) - starts
    return np.lexsort((labels, rank))
