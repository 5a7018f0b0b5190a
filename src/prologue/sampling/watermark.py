"""A watermark in the visual ids: a secret key decides which codes are likelier, given their place and neighbours.

Green and red lists over the codebook (Kirchenbauer et al. 2023, arXiv:2301.10226), the same for near codes: an image
that is decoded, damaged and encoded again comes back with some ids changed, mostly to near ones (Jovanovic et al. 2025,
arXiv:2506.16349). Flat areas carry no mark: a code that repeats a neighbour is neither likelier nor counted, so that a
shared background makes no two images alike to the reader.
"""

import copy
import hashlib
import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import bdtrc
from torch import Tensor

from prologue.core.errors import PrologueError
from prologue.models.tokenizer import Tokenizer

CODES_PER_CLUSTER = 16  # in the mean; larger clusters survive more damage and cost more quality
COINS = 2**20  # secret bits, green or red; place, neighbours and cluster choose one
KEY_VARIABLE = "PROLOGUE_WATERMARK_KEY"
LEAST_KEY = 16  # bytes
LEVEL = 0.01  # p-values up to here count as found


class Reading(NamedTuple):
    """What the ids of images (N,) say: how many tokens count, how many are green, and how likely chance makes so many.

    p_value: of as many green ones or more, each green with probability 1/2 under a key that was not used.
    """

    counted: NDArray[np.int64]
    green: NDArray[np.int64]
    p_value: NDArray[np.float64]


class Watermark:
    """The lists that a key makes over a tokenizer's visual codebook, to draw by and to read."""

    def __init__(self, key: bytes, tokenizer: Tokenizer, strength: float = 0) -> None:
        """`strength`: added to the logits of green codes."""
        self.strength = strength
        self.fingerprint = hashlib.sha256(b"fingerprint\0" + key).hexdigest()[:8]  # tells keys apart, nothing more
        self.back = 1, tokenizer.config.grid if tokenizer.config.tokenizer.layout == "2d" else 2  # to the neighbours
        quantizer = tokenizer.visual_quantizer
        device = quantizer.codebook.weight.device
        self.codes = torch.arange(quantizer.codes, device=device)
        rounded = copy.deepcopy(quantizer)  # as an export in bf16 has it, which reads what this model marks
        rounded.codebook.weight.data = rounded.codebook.weight.bfloat16().float()
        clusters, count = near_codes(rounded.vectors(self.codes))

        def secret(purpose: str, entries: int) -> Tensor:
            content = hashlib.shake_256(purpose.encode() + b"\0" + key).digest(4 * entries)
            return torch.from_numpy(np.frombuffer(content, "<u4").astype(np.int64) % COINS).to(device)

        self.place = secret("place", tokenizer.visual_tokens)
        self.neighbours = [secret(f"neighbour {back}", count)[clusters] for back in (1, 2)]
        self.own = secret("own", count)[clusters]
        self.coins = secret("coins", COINS) % 2 == 1

    def bias(self, visual: Tensor, place: Tensor) -> Tensor:
        """What to add to the logits (B, codes) at a place (1,), given the ids (B, Nv) drawn before it."""
        left, upper = (visual.index_select(1, (place - back).clamp_min(0)) for back in self.back)  # (B, 1)
        green = self.coins[self._row(left, upper, place) ^ self.own]
        flat = (self.codes == left) | (self.codes == upper)
        in_the_mean = float(np.logaddexp(0, self.strength)) - math.log(2)
        return torch.where(flat, in_the_mean, self.strength * green) * (place >= max(self.back))

    def read(self, visual: Tensor) -> Reading:
        """Look for the mark in visual ids (N, Nv)."""
        first = min(max(self.back), visual.shape[1])
        places = torch.arange(first, visual.shape[1], device=visual.device)
        ids, (left, upper) = visual[:, first:], (visual[:, places - back] for back in self.back)
        counts = (ids != left) & (ids != upper)
        green = self.coins[self._row(left, upper, places) ^ self.own[ids]] & counts
        counted, greens = (part.sum(dim=1).cpu().numpy() for part in (counts, green))
        return Reading(counted, greens, bdtrc(greens - 1, counted, 0.5))

    def _row(self, left: Tensor, upper: Tensor, place: Tensor) -> Tensor:
        """Which list holds at places (n,) with neighbours (B, n): int64 (B, n)."""
        return self.neighbours[0][left] ^ self.neighbours[1][upper] ^ self.place[place]


@torch.no_grad()
def near_codes(vectors: Tensor) -> tuple[Tensor, int]:
    """Cluster of each code by k-means: vectors (codes, dim) -> int64 (codes,), and how many clusters."""
    from scipy.cluster.vq import kmeans2  # takes half a second to load, and only marks need it

    count = max(2, len(vectors) // CODES_PER_CLUSTER)
    _, clusters = kmeans2(vectors.double().cpu().numpy(), count, minit="++", rng=0)
    return torch.from_numpy(clusters.astype(np.int64)).to(vectors.device), count


def read_key(file: Path | None = None) -> bytes:
    """The key: the content of a file, or of the environment's PROLOGUE_WATERMARK_KEY.

    Raises PrologueError where there is none, or one that could be guessed.
    """
    try:
        key = file.read_bytes().strip() if file else os.fsencode(os.environ.get(KEY_VARIABLE, "")).strip()
    except OSError as error:
        raise PrologueError(f"the key of the watermark cannot be read: {error}") from None
    where = str(file) if file else f"the environment's {KEY_VARIABLE}"
    how = "make one with `openssl rand -hex 32 > watermark.key`, and keep it: without it no image can be recognised"
    if not key:
        raise PrologueError(f"{where} holds no key of the watermark; {how}")
    if len(key) < LEAST_KEY:
        raise PrologueError(f"{where}: a key of {len(key)} bytes can be guessed, {LEAST_KEY} are the least; {how}")
    return key


def marking(strength: float, tokenizer: Tokenizer, file: Path | None = None) -> Watermark | None:
    """The watermark to sample with, under the key that is given; None at strength 0. Raises as `read_key`."""
    return Watermark(read_key(file), tokenizer, strength) if strength else None
