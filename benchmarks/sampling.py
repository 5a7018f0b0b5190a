"""16 images of AR-B (16 prologue and 256 visual tokens, guidance on) against a straightforward sampler, in one run.

    python benchmarks/sampling.py [fp32|bf16]      # ACCELERATE_DYNAMO_BACKEND=inductor compiles ours

The straightforward sampler concatenates its cache, computes in fp32 and projects the whole vocabulary. Also how long
the matrix products of those steps take alone, by the packed layers that ours uses: the limit of our sampler. Writes
reports/benchmarks/sampling_PRECISION[_compiled].json.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from prologue.core.files import write_json
from prologue.core.params import TransformerParams
from prologue.models.ar import ARConfig, ARModel
from prologue.models.transformer import Block, ar_hidden
from prologue.models.vocabulary import Vocabulary
from prologue.sampling import Choices, Guidance
from prologue.sampling.decoding import Decoder, for_inference
from prologue.sampling.generation import TokenSampler
from prologue.sampling.images import DTYPES

IMAGES, ROUNDS = 16, 2
VOCABULARY = Vocabulary(
    visual_codebook=16384, prologue_codebook=1024, visual_tokens=256, prologue_tokens=16, classes=1000
)
SIZE = TransformerParams(layers=12, dim=768)
GUIDANCE = Guidance(prologue=0.7, visual=3.75, power=0.2)
OUTPUT = Path("reports/benchmarks")


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


def main() -> None:
    precision = sys.argv[1] if len(sys.argv) > 1 else "fp32"
    torch.manual_seed(0)
    ar = ARModel(ARConfig(vocabulary=VOCABULARY, transformer=SIZE)).eval()
    plain = for_inference(ar)
    sampler = TokenSampler(ar, GUIDANCE, Choices(), DTYPES[precision])
    classes = torch.arange(IMAGES)
    seeds = [(0, image) for image in range(IMAGES)]
    sampler.sample(classes, seeds)  # compiles, where that is asked for
    sides: dict[str, Callable[[], object]] = {
        "own": lambda: sampler.sample(classes, seeds),
        "straightforward": lambda: straightforward(plain, classes),
        "products": lambda: products(sampler.decoder, DTYPES[precision]),
    }
    seconds = dict.fromkeys(sides, float("inf"))
    for _ in range(ROUNDS):
        for side, work in sides.items():
            began = time.perf_counter()
            work()
            seconds[side] = min(seconds[side], time.perf_counter() - began)
    result = {f"{side}_seconds": round(value, 2) for side, value in seconds.items()} | {
        "images": IMAGES,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "times_faster": round(seconds["straightforward"] / seconds["own"], 2),
        "share_of_products": round(seconds["products"] / seconds["own"], 2),
        "limit_of_times_faster": round(seconds["straightforward"] / seconds["products"], 2),
    }
    compiled = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no"
    write_json(OUTPUT / f"sampling_{precision}{'_compiled' if compiled else ''}.json", result)
    print(result)


if __name__ == "__main__":
    main()
