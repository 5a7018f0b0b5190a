"""16 images of AR-B (16 prologue and 256 visual tokens, guidance on) against a straightforward sampler, in one run.

    python benchmarks/sampling.py [fp32|bf16]

The straightforward sampler concatenates its cache, computes in fp32 by PyTorch's operations and projects the whole
vocabulary. The limit of our sampler is the matrix products of those steps alone, by the packed layers that ours uses,
and one read of the cache at every step at the speed of the memory. Medians. Writes
reports/benchmarks/sampling_PRECISION.json.
"""

import statistics
import sys
from collections.abc import Callable

import torch
from plain import torch_alone
from sitting import Sitting, seconds_of
from torch import Tensor
from torch.nn import functional as F

from prologue.core.launch import own_threads
from prologue.core.params import TransformerParams
from prologue.models.ar import ARConfig, ARModel
from prologue.models.transformer import Block, ar_hidden
from prologue.models.vocabulary import Vocabulary
from prologue.sampling import Choices, Guidance
from prologue.sampling.decoding import Decoder, attend_cached, for_inference
from prologue.sampling.generation import TokenSampler
from prologue.sampling.images import DTYPES

IMAGES, ROUNDS, TURNS = 16, 2, 30
VOCABULARY = Vocabulary(
    visual_codebook=16384, prologue_codebook=1024, visual_tokens=256, prologue_tokens=16, classes=1000
)
SIZE = TransformerParams(layers=12, dim=768)
GUIDANCE = Guidance(prologue=0.7, visual=3.75, power=0.2)


@torch.no_grad()
def straightforward(ar: ARModel, classes: Tensor) -> Tensor:
    """Sample as a textbook would: everything by torch.cat and over the full vocabulary."""
    labels = torch.cat((classes, torch.full_like(classes, VOCABULARY.null_class)))
    x = ar.class_embedding(labels)[:, None]
    caches: list[tuple[Tensor, Tensor] | None] = [None] * SIZE.layers
    drawn = []
    for position in range(VOCABULARY.length):
        for layer, block in enumerate(ar.transformer.blocks):
            assert isinstance(block, Block)
            q, k, v = block.start(x, ar.rotary[position : position + 1])
            cache = caches[layer]
            if cache is not None:
                k, v = torch.cat((cache[0], k), dim=2), torch.cat((cache[1], v), dim=2)
            caches[layer] = (k, v)
            x = block.finish(x, F.scaled_dot_product_attention(q, k, v))
        conditional, unconditional = ar.project(x[:, 0]).chunk(2)
        scale = GUIDANCE.scale(position, VOCABULARY)
        logits = scale * conditional + (1 - scale) * unconditional
        allowed = torch.full_like(logits, -torch.inf)
        allowed[:, VOCABULARY.ids_at(position)] = 0
        drawn.append(torch.multinomial((logits + allowed).softmax(dim=-1), 1))
        x = ar.token_embedding(drawn[-1].repeat(2, 1))
    return torch.cat(drawn, dim=1)


def products(decoder: Decoder, dtype: torch.dtype) -> None:
    """Nothing but the matrix products of all steps, by the layers that the sampler uses."""
    x = torch.randn(2 * IMAGES, SIZE.dim, dtype=dtype)
    hidden = torch.randn(2 * IMAGES, ar_hidden(SIZE.dim), dtype=dtype)
    for position in range(VOCABULARY.length):
        for block in decoder.ar.transformer.blocks:
            assert isinstance(block, Block)
            for layer in (block.attention.qkv, block.attention.proj, block.feed_forward.fc1):
                layer(x)
            block.feed_forward.fc2(hidden)
        decoder.heads[VOCABULARY.ids_at(position).start](x)


def read_speeds(decoder: Decoder, position: int) -> tuple[float, float]:
    """Bytes per second of the cache that all threads read in a sum over it, and that attention of decode steps reads.

    Both of the same memory, as one place of it may be half as fast as another, and medians of turns, as it is now
    faster and now slower where others share it. Attention is of one layer after the other.
    """
    numbers = decoder.cache.flatten().view(torch.float32)
    rows, count, _, width = decoder.cache.shape[2:]
    q = torch.randn(rows, count, 1, width).to(decoder.cache.dtype)
    attended, seen = torch.empty_like(q), decoder.cache[:, :, :, :, :position]

    def step() -> None:
        for keys, values in decoder.cache:
            attend_cached(q, keys, values, attended, position)

    turns = [(seconds_of(numbers.sum), seconds_of(step)) for _ in range(TURNS)]
    memory, attention = (statistics.median(seconds) for seconds in zip(*turns, strict=True))
    return numbers.nbytes / memory, seen.numel() * seen.itemsize / attention


def main() -> None:
    precision = sys.argv[1] if len(sys.argv) > 1 else "fp32"
    torch.manual_seed(0)
    torch.set_num_threads(own_threads())
    ar = ARModel(ARConfig(vocabulary=VOCABULARY, transformer=SIZE)).eval()
    plain = for_inference(ar)
    sampler = TokenSampler(ar, GUIDANCE, Choices(), DTYPES[precision])
    classes = torch.arange(IMAGES)
    seeds = [(0, image) for image in range(IMAGES)]

    def textbook() -> None:
        with torch_alone():
            straightforward(plain, classes)

    sides: dict[str, Callable[[], object]] = {
        "own": lambda: sampler.sample(classes, seeds),
        "straightforward": textbook,
        "products": lambda: products(sampler.decoder, DTYPES[precision]),
    }
    measured: dict[str, list[float]] = {side: [] for side in sides}
    with Sitting() as sitting:
        bandwidth, read = read_speeds(sampler.decoder, VOCABULARY.length // 2)
        for _ in range(ROUNDS):
            for side, work in sides.items():
                measured[side].append(seconds_of(work))
    seconds = {side: statistics.median(values) for side, values in measured.items()}
    positions = sum(range(1, VOCABULARY.length + 1)) / VOCABULARY.length  # read at a step, on average
    read_seconds = sampler.decoder.cache.nbytes * positions / bandwidth
    limit = seconds["products"] + read_seconds
    sitting.write(
        f"sampling_{precision}",
        {
            "images": IMAGES,
            "precision": precision,
            "threads": torch.get_num_threads(),
            **{f"{side}_seconds": round(value, 2) for side, value in seconds.items()},
            "memory_gb_per_second": round(bandwidth / 1e9, 1),
            "cache_read_seconds": round(read_seconds, 2),
            "attention_share_of_memory_speed": round(read / bandwidth, 2),
            "times_faster": round(seconds["straightforward"] / seconds["own"], 2),
            "share_of_limit": round(limit / seconds["own"], 2),
            "limit_of_times_faster": round(seconds["straightforward"] / limit, 2),
        },
    )


if __name__ == "__main__":
    main()
