"""How well images come back from their visual tokens, and how the codebooks are used."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from prologue.data.images import MANIFEST, ImageShards
from prologue.data.loader import view_batches
from prologue.errors import PrologueError
from prologue.evaluation.codebooks import codebook_usage, count_codes
from prologue.evaluation.features import Extractor, gather, metric_name, share
from prologue.evaluation.fidelity import frechet_distance, statistics
from prologue.evaluation.reference import load_reference
from prologue.figures.grids import image_grid
from prologue.figures.style import BLUE, MUTED, ORANGE, save, styled
from prologue.files import replacing, sha256
from prologue.launch import progress
from prologue.models.export import load_tokenizer
from prologue.models.tokenizer import Tokenizer, to_signed, to_uint8
from prologue.params import Params
from prologue.perceptual import PerceptualLoss
from prologue.runtime import start_accelerator
from prologue.training.validation import image_psnr

WINDOW, SIGMA = 11, 1.5  # of SSIM, px
PERCEPTUAL_NAMES = {"vgg16": "lpips", "lite0": "perceptual_lite0"}
PAIRS_PER_ROW = 10
SHOWN_PAIRS = 20


def evaluate_reconstruction(
    params: Params, tokenizer_folder: Path, shards: Path, reference_folder: Path, figures: Path
) -> dict[str, Any]:
    """Reconstruct every centre-cropped validation image; write reconstructions.png and codebook_usage.svg and .png.

    Returns:
        rfd_EXTRACTOR or rfid, psnr (dB), ssim, l1 (of pixels in [-1, 1]), lpips (VGG16) or perceptual_NETWORK, usage,
        entropy (nats) and perplexity of each codebook, throughput of encoding and decoding, and the protocol. All are
        of reconstructions rounded to uint8.

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
    rows, rate = _reconstruct_share(
        tokenizer,
        Extractor(name, accelerator.device),
        PerceptualLoss(params.evaluation.perceptual).to(accelerator.device),
        images,
        share(len(images), accelerator),
        params.evaluation.batch,
    )
    rows = {key: gather(value, len(images), accelerator) for key, value in rows.items()}
    counts = _code_counts(tokenizer, rows)
    if accelerator.is_main_process:
        with replacing(figures / "reconstructions.png") as path:
            _reconstruction_figure(tokenizer, images, path)
        _usage_figure(counts, figures / "codebook_usage")
    metrics: dict[str, Any] = {
        metric_name("rfd", name): frechet_distance(statistics(rows["pool"]), reference.statistics),
        **{key: rows[key].double().mean().item() for key in ("psnr", "ssim", "l1")},
        PERCEPTUAL_NAMES[params.evaluation.perceptual]: rows["perceptual"].double().mean().item(),
    }
    for book, counted in counts.items():
        usage, perplexity = codebook_usage(counted)
        metrics |= {
            f"{book}_usage": usage,
            f"{book}_entropy": math.log(perplexity),
            f"{book}_perplexity": perplexity,
        }
    protocol = {key: value for key, value in reference.protocol.items() if key != "is"}
    protocol |= {"weights": "ema", "rounding": "uint8"}
    return {**metrics, "images_per_second": round(rate * accelerator.num_processes, 1), **protocol}


def image_ssim(images: Tensor, originals: Tensor) -> Tensor:
    """Structural similarity [Wang et al. 2004] of each uint8 image (B, 3, H, W): (B,), float64.

    Gaussian window of 11 px and sigma 1.5, where it lies fully inside, population variances, mean over RGB.
    """
    if min(images.shape[2:]) < WINDOW:
        raise PrologueError(f"SSIM needs images of at least {WINDOW} px: raise data.image_size")
    offsets = torch.arange(WINDOW, device=images.device, dtype=torch.float64) - WINDOW // 2
    window = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    window = window / window.sum()

    def local_mean(values: Tensor) -> Tensor:
        rows = F.conv2d(values.flatten(0, 1).unsqueeze(1), window.view(1, 1, -1, 1))
        return F.conv2d(rows, window.view(1, 1, 1, -1))  # (B * 3, 1, h, w)

    x, y = images.double(), originals.double()
    mean_x, mean_y = local_mean(x), local_mean(y)
    variance_x, variance_y = local_mean(x * x) - mean_x**2, local_mean(y * y) - mean_y**2
    covariance = local_mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * structure).reshape(len(images), -1).mean(dim=1)


def _reconstruct_share(
    tokenizer: Tokenizer,
    extractor: Extractor,
    perceptual: PerceptualLoss,
    images: ImageShards,
    positions: NDArray[np.int64],
    batch: int,
) -> tuple[dict[str, Tensor], float]:
    """Per-image results of this process's share by name, and images encoded and decoded per second."""
    parts: dict[str, list[Tensor]] = {}
    seconds = 0.0
    batches = view_batches(images, tokenizer.config.image_size, "center", positions, batch)
    for views, _ in progress(batches, "reconstructions", "batch", math.ceil(len(positions) / batch)):
        originals = views[:, 0].to(extractor.device)
        started = time.perf_counter()
        tokens = tokenizer.encode(originals)
        copies = to_uint8(tokenizer.decode(tokens.visual))
        result = {
            "l1": (copies.double() - originals.double()).abs().flatten(1).mean(1).cpu() / 127.5,  # waits for the device
            "visual": tokens.visual,
        }
        seconds += time.perf_counter() - started
        if tokens.prologue is not None:
            result["prologue"] = tokens.prologue
        result["psnr"] = image_psnr(copies, originals)
        result["ssim"] = image_ssim(copies, originals)
        with torch.no_grad():
            result["perceptual"] = perceptual(to_signed(copies), to_signed(originals))
        result["pool"], _ = extractor(copies)
        for key, value in result.items():
            parts.setdefault(key, []).append(value)
    return {key: torch.cat(values) for key, values in parts.items()}, len(positions) / seconds


def _code_counts(tokenizer: Tokenizer, rows: dict[str, Tensor]) -> dict[str, Tensor]:
    """How often each code of each book stands for an image."""
    books = {"visual": tokenizer.visual_quantizer, "prologue": tokenizer.prologue_quantizer}
    return {
        name: count_codes(rows[name], quantizer.codes)
        for name, quantizer in books.items()
        if quantizer is not None and name in rows
    }


def _reconstruction_figure(tokenizer: Tokenizer, images: ImageShards, path: Path) -> None:
    """Pairs of rows, originals above reconstructions, classes in turn."""
    columns = min(PAIRS_PER_ROW, len(images))
    shown = SHOWN_PAIRS if len(images) >= SHOWN_PAIRS else columns
    device = next(tokenizer.parameters()).device
    chosen = classes_in_turn(images.labels)[:shown]
    views, _ = next(view_batches(images, tokenizer.config.image_size, "center", chosen, shown))
    originals = views[:, 0]
    copies = to_uint8(tokenizer.decode(tokenizer.encode(originals.to(device)).visual)).cpu()
    pairs = zip(originals.split(columns), copies.split(columns), strict=True)
    rows = torch.cat([row for pair in pairs for row in pair])
    labels = ["original", "reconstruction"] * (shown // columns)
    image_grid(rows.permute(0, 2, 3, 1).numpy(), columns, labels).save(path, format="PNG")


def classes_in_turn(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions ordered so that every class comes once before any comes twice."""
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], labels[order])
    rank = np.empty(len(labels), dtype=np.int64)
    rank[order] = np.arange(len(labels)) - starts
    return np.lexsort((labels, rank))


def _usage_figure(counts: dict[str, Tensor], path: Path) -> None:
    """How often each code is used, relative to all being used alike, most used first; both books in one chart."""
    with styled():
        figure = Figure(figsize=(7, 3.6), layout="constrained")
        axes = figure.add_subplot()
        for (book, counted), colour, line in zip(counts.items(), (BLUE, ORANGE), ("-", "--"), strict=False):
            sizes = (counted.sort(descending=True).values / counted.double().mean()).numpy()
            used = int((counted > 0).sum())
            place = 100 * np.arange(1, len(sizes) + 1) / len(sizes)
            axes.plot(
                place[:used], sizes[:used], line, color=colour, label=f"{book}: {used} of {len(sizes)} codes in use"
            )
        axes.axhline(1, color=MUTED, linewidth=0.8, linestyle=":", label="all codes used alike")
        axes.set(xlim=(0, 100), yscale="log", xlabel="codes, most used first, % of the book")
        axes.set(ylabel="times the mean frequency", title="How often each code is used")
        axes.legend()
        save(figure, path)
