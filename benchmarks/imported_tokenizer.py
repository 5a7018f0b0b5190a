"""Images per second of LlamaGen's VQ-16 at 256 px, encoded and decoded: against a plain eager run of the same network.

    python benchmarks/imported_tokenizer.py

The weights are random, of the sizes of the published file; both sides compute in fp32 with as many threads. The plain
side is diffusers' blocks as they come, in PyTorch's default memory layout, and LlamaGen's own steps around them. The
share of the matrix rate says what is left: no exact way is faster than the products. Also the memory that it takes.
Writes reports/benchmarks/imported_tokenizer.json.
"""

import copy
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from sitting import Sitting, seconds_of
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from prologue.core.launch import own_threads
from prologue.core.machine import peak_memory_mb
from prologue.interop.checkpoints import Checkpoint
from prologue.interop.imported import describe_checkpoint
from prologue.models.config import TokenizerConfig
from prologue.models.imported import ConvDecoder, ConvEncoder, NearestQuantizer
from prologue.models.saved import parameter_count
from prologue.models.tokenizer import Tokenizer, to_signed

SHAPES, FILE = Path("tests/third_party/llamagen_vq/published_tensors.json"), "vq_ds16_c2i.pt"
IMAGES, SIZE, ROUNDS = 4, 256, 5


def vq_16() -> Tokenizer:
    """LlamaGen's VQ-16 with random weights."""
    shapes = json.loads(SHAPES.read_text())[FILE]
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    size, _ = describe_checkpoint(Checkpoint(tensors, {}, (Path(FILE),)), "llamagen", "signed")
    return Tokenizer(TokenizerConfig(image_size=SIZE, tokenizer=size, prologue=None)).eval()


def plain_encode(network: nn.Module, tokenizer: Tokenizer, images: Tensor) -> Tensor:
    """The steps of LlamaGen's program: encoder, projection, distances to all codes, the nearest."""
    assert isinstance(tokenizer.visual_quantizer, NearestQuantizer)
    z = tokenizer.visual_quantizer.projection(network(to_signed(images)).flatten(2).transpose(1, 2))
    z, codes = F.normalize(z, dim=-1).flatten(0, 1), F.normalize(tokenizer.visual_quantizer.codebook.weight, dim=-1)
    distances = z.square().sum(1, keepdim=True) + codes.square().sum(1) - 2 * z @ codes.T
    return distances.argmin(dim=1).view(len(images), -1)


def matrix_rate() -> float:
    """fp32 operations per second of a large product."""
    x = torch.randn(2048, 2048)
    return 2 * 2048**3 / min(seconds_of(lambda: x @ x) for _ in range(10))


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(own_threads())
    tokenizer, images = vq_16(), torch.randint(0, 256, (IMAGES, 3, SIZE, SIZE), dtype=torch.uint8)
    encoder, decoder = tokenizer.encoder, tokenizer.decoder
    assert isinstance(encoder, ConvEncoder)
    assert isinstance(decoder, ConvDecoder)
    plain = [copy.deepcopy(part.network).to(memory_format=torch.contiguous_format) for part in (encoder, decoder)]
    ids = tokenizer.encode(images).visual
    side = SIZE // tokenizer.config.tokenizer.patch

    def plain_decode() -> Tensor:
        codes = decoder.projection(tokenizer.visual_quantizer.vectors(ids))
        image: Tensor = plain[1](codes.transpose(1, 2).unflatten(2, (side, side)))
        return image

    assert torch.equal(plain_encode(plain[0], tokenizer, images), ids)
    torch.testing.assert_close(plain_decode(), tokenizer.decode(ids), atol=5e-5, rtol=0)
    with FlopCounterMode(display=False) as counter:
        tokenizer.encode(images)
    sides: dict[str, Callable[[], object]] = {
        "encode": lambda: tokenizer.encode(images),
        "plain_encode": lambda: plain_encode(plain[0], tokenizer, images),
        "decode": lambda: tokenizer.decode(ids),
        "plain_decode": plain_decode,
    }
    measured: dict[str, list[float]] = {name: [] for name in sides}
    with Sitting() as sitting:
        rate = matrix_rate()
        for _ in range(ROUNDS):
            for name, work in sides.items():
                measured[name].append(seconds_of(work))
    seconds = {name: statistics.median(values) for name, values in measured.items()}
    sitting.write(
        "imported_tokenizer",
        {
            "images": IMAGES,
            "threads": torch.get_num_threads(),
            "parameters": parameter_count(encoder) + parameter_count(decoder),
            **{f"{name}_images_per_second": round(IMAGES / value, 2) for name, value in seconds.items()},
            "encode_times_faster": round(seconds["plain_encode"] / seconds["encode"], 2),
            "decode_times_faster": round(seconds["plain_decode"] / seconds["decode"], 2),
            "encode_share_of_matrix_rate": round(counter.get_total_flops() / seconds["encode"] / rate, 2),
            "peak_memory_mb": peak_memory_mb(),
        },
    )


if __name__ == "__main__":
    main()
