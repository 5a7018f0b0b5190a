"""Sampling: prologue first, then EOS, then visual tokens (Sec. 2)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from prologue.core.errors import PrologueError
from prologue.core.runtime import WITHOUT_FLOAT64
from prologue.core.seeds import derive_seed
from prologue.models.ar import ARModel
from prologue.models.tokenizer import Tokens
from prologue.sampling.choice import Choices
from prologue.sampling.decoding import Decoder
from prologue.sampling.graphs import StaticSteps
from prologue.sampling.guidance import Guidance, guided
from prologue.sampling.watermark import Watermark

SMALL = 16_000_000  # parameters below which a CPU samples faster in large blocks: it spends its time between products

SMALLEST, LARGEST = 16, 512  # images in a block on a GPU

Seed = tuple[int, ...]


@torch.no_grad()
def generate(
    ar: ARModel,
    classes: Tensor,
    guidance: Guidance | None = None,
    choices: Choices | None = None,
    seeds: Sequence[Seed] | None = None,
    prologue: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tokens:
    """Sample token ids, prologue first and visual second.

    An image depends on its class and seed only: in fp32 its ids are the same whatever is drawn beside it.

    Args:
        ar: the model.
        classes: ids (B,); `vocabulary.null_class` samples without a class.
        guidance: None samples from the conditional model alone.
        choices: temperature, top-k and top-p of both segments.
        seeds: one tuple per image; image i has (0, i) where None.
        prologue: ids (B, Np) to hold fixed, so that only the visual tokens are sampled.
        dtype: of matrix products and the cache: fp32 or bf16.

    Returns:
        Ids in each token's own codebook: prologue (B, Np) or None, visual (B, Nv).
    """
    sampler = TokenSampler(ar, guidance, choices or Choices(), dtype)
    return sampler.sample(classes, seeds or [(0, image) for image in range(len(classes))], prologue)


class TokenSampler:
    """Draws token ids block by block from one prepared model."""

    def __init__(
        self,
        ar: ARModel,
        guidance: Guidance | None,
        choices: Choices,
        dtype: torch.dtype,
        watermark: Watermark | None = None,
    ) -> None:
        self.vocabulary, self.guidance, self.choices, self.watermark = ar.vocabulary, guidance, choices, watermark
        self.device = ar.token_embedding.weight.device
        self.block = block_size(ar)
        self.decoder = Decoder(ar, self.block if guidance is None else 2 * self.block, dtype)
        self.steps: StaticSteps | None = None  # on a GPU
        self.check = torch.zeros((), device=self.device)  # 0 as long as all logits are finite

    @torch.no_grad()
    def sample(self, classes: Tensor, seeds: Sequence[Seed], prologue: Tensor | None = None) -> Tokens:
        """As `generate`. Raises PrologueError where the model's logits are not finite."""
        blocks = [
            self._sample_block(
                classes[start : start + self.block],
                seeds[start : start + self.block],
                None if prologue is None else prologue[start : start + self.block],
            )
            for start in range(0, len(classes), self.block)
        ]
        self._require_finite()
        return Tokens(*self.vocabulary.split(torch.cat(blocks)))

    def _require_finite(self) -> None:
        if (self.check if self.steps is None else self.steps.check).isnan():
            raise PrologueError(
                "the AR model's logits are not finite, so that nothing can be drawn by them: its weights are damaged, "
                "or bf16 is too coarse for them (sampling.precision: fp32)"
            )

    def _sample_block(self, classes: Tensor, seeds: Sequence[Seed], prologue: Tensor | None) -> Tensor:
        """Vocabulary ids (b, length) of up to a block of images; the rows to spare repeat the first image."""
        count, spare, seeds = len(classes), self.block - len(classes), list(seeds)
        classes = torch.cat((classes, classes[:1].expand(spare)))
        uniforms = draw_uniforms(seeds + seeds[:1] * spare, self.vocabulary.length)
        if classes.device.type not in WITHOUT_FLOAT64:
            uniforms = uniforms.to(classes.device)
        if prologue is not None:
            prologue = torch.cat((prologue, prologue[:1].expand(spare, -1)))
        labels = classes if self.guidance is None else torch.cat((classes, self._null(classes)))
        x = self.decoder.ar.class_embedding(labels)  # (rows, dim)
        if self.device.type == "cuda":
            settings = self.guidance, self.choices
            if self.steps is None or (self.steps.guidance, self.steps.choices) != settings:  # what is captured stays
                self.steps = StaticSteps(self.decoder, self.block, *settings, self.watermark)
            return self.steps.sample(x, uniforms, prologue)[:count]
        drawn = torch.zeros(self.block, self.vocabulary.length, dtype=torch.long, device=classes.device)
        for position in range(self.vocabulary.length):
            drawn[:, position] = self._next(x, position, uniforms[:, position], prologue, drawn)
            x = self.decoder.ar.token_embedding(drawn[:, position].repeat(len(labels) // self.block))
        return drawn[:count]

    def _next(self, x: Tensor, position: int, uniforms: Tensor, prologue: Tensor | None, drawn: Tensor) -> Tensor:
        """Vocabulary ids (block,) at a position; what is fixed there is not drawn, but enters the cache."""
        vocabulary = self.vocabulary
        ids = vocabulary.ids_at(position)
        logits = self.decoder.logits(x, position, ids)  # (rows, ids)
        self.check += 0 * logits.sum()  # NaN where one is not finite, at the price of a sum
        if ids.stop - ids.start == 1:
            return torch.full((self.block,), ids.start, device=x.device)
        if prologue is not None and position < vocabulary.prologue_tokens:
            return prologue[:, position] + ids.start
        if self.guidance is not None:
            logits = guided(logits, self.guidance.scale(position, vocabulary))
        in_prologue = position < vocabulary.prologue_tokens
        if self.watermark is not None and not in_prologue:
            place = torch.tensor([position - vocabulary.prefix], device=x.device)
            logits = logits + self.watermark.bias(drawn[:, vocabulary.prefix :], place)
        choice = self.choices.prologue if in_prologue else self.choices.visual
        return choice.draw(logits, uniforms) + ids.start

    def _null(self, classes: Tensor) -> Tensor:
        return torch.full_like(classes, self.vocabulary.null_class)


def block_size(ar: ARModel) -> int:
    """Images drawn at once from a model, always so many.

    Products of another height may round otherwise, and an image must not depend on how many are drawn beside it. On a
    GPU it is the power of two whose caches, with guidance, take up to an eighth of the whole memory.
    """
    device = ar.token_embedding.weight.device
    if device.type == "cuda":
        size = ar.config.transformer
        image = 2 * size.layers * 2 * size.dim * ar.vocabulary.length * 2  # bytes in bf16: two rows of keys and values
        fitting = torch.cuda.get_device_properties(device).total_memory // 8 // image
        return min(LARGEST, max(SMALLEST, 2 ** (fitting.bit_length() - 1) if fitting else 0))
    if device.type != "cpu":
        return 128
    return 64 if sum(parameter.numel() for parameter in ar.parameters()) < SMALL else 16


def draw_uniforms(seeds: Sequence[Seed], length: int) -> Tensor:
    """One row of uniform numbers per image from its own seed: (B, length), float64."""
    rows = [
        torch.rand(length, generator=torch.Generator().manual_seed(derive_seed(*seed)), dtype=torch.float64)
        for seed in seeds
    ]
    return torch.stack(rows)
