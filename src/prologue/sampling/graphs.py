"""Sampling on a GPU: steps of fixed shapes, each captured once as a CUDA graph and replayed for every token.

Launching the few hundred kernels of a step takes several times as long as they do; a graph is launched at once.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from prologue.sampling.choice import Choices
from prologue.sampling.decoding import Decoder
from prologue.sampling.guidance import Guidance, guided
from prologue.sampling.watermark import Watermark

BUCKET = 64  # positions: a step reads its cache up to the next multiple, so that few lengths need a graph each
FREE = -1  # in `held`: an id that is drawn


class StaticSteps:
    """The steps of one sampler over tensors that stay where they are; the position, too, is read from one."""

    def __init__(
        self,
        decoder: Decoder,
        block: int,
        guidance: Guidance | None,
        choices: Choices,
        watermark: Watermark | None = None,
    ) -> None:
        """`block`: images drawn at once."""
        self.decoder, self.vocabulary = decoder, decoder.ar.vocabulary
        self.guidance, self.choices, self.watermark = guidance, choices, watermark
        device, length = decoder.cache.device, self.vocabulary.length
        self.x = torch.zeros(decoder.cache.shape[2], decoder.ar.config.transformer.dim, device=device)
        self.position = torch.zeros(1, dtype=torch.long, device=device)
        self.uniforms = torch.zeros(block, length, dtype=torch.float64, device=device)
        self.held = torch.full((block, length), FREE, device=device)
        self.drawn = torch.zeros(block, length, dtype=torch.long, device=device)
        self.check = torch.zeros((), device=device)  # 0 as long as all logits are finite
        scales = [
            self.guidance.scale(position, self.vocabulary) if self.guidance else 1.0 for position in range(length)
        ]
        self.scales = torch.tensor(scales, device=device)
        self.inputs = torch.arange(length, device=device)
        self.graphs: dict[tuple[int, int], Callable[[], None]] = {}

    def sample(self, x: Tensor, uniforms: Tensor, prologue: Tensor | None) -> Tensor:
        """Vocabulary ids (block, length): first inputs x (rows, dim), uniforms (block, length), ids to hold or None."""
        self.x.copy_(x)
        self.uniforms.copy_(uniforms)
        self.held.fill_(FREE)
        if prologue is not None:
            self.held[:, : self.vocabulary.prologue_tokens] = prologue + self.vocabulary.prologue_ids.start
        self.position.zero_()
        for position in range(self.vocabulary.length):
            self._advance(position)
        return self.drawn.clone()

    def _advance(self, position: int) -> None:
        """Draw the ids of a position, which is also what `self.position` says."""
        seen = min(-(-(position + 1) // BUCKET) * BUCKET, self.vocabulary.length)
        key = self.vocabulary.ids_at(position).start, seen
        if key not in self.graphs:
            in_prologue = position < self.vocabulary.prologue_tokens
            self.graphs[key] = self._captured(lambda: self.step(self.vocabulary.ids_at(position), seen, in_prologue))
        self.graphs[key]()

    def _captured(self, step: Callable[[], None]) -> Callable[[], None]:
        """A step as a graph on a GPU, as it is elsewhere."""
        if self.position.device.type != "cuda":
            return step
        kept = [tensor.clone() for tensor in (self.x, self.position, self.drawn)]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            step()  # once before, as libraries set themselves up
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        for tensor, before in zip((self.x, self.position, self.drawn), kept, strict=True):
            tensor.copy_(before)
        return graph.replay

    def step(self, ids: slice, seen: int, in_prologue: bool) -> None:
        """Draw one id for each image at `self.position` and make the next inputs; the cache is read up to `seen`."""
        logits = self._logits(ids, seen)  # (rows, ids)
        self.check += 0 * logits.sum()  # NaN where one is not finite, at the price of a sum
        if self.guidance is not None:
            logits = guided(logits, self.scales[self.position])
        if ids.stop - ids.start == 1:
            drawn = torch.full_like(self.held[:, 0], ids.start)
        else:
            if self.watermark is not None and not in_prologue:
                prefix = self.vocabulary.prefix
                logits = logits + self.watermark.bias(self.drawn[:, prefix:], self.position - prefix)
            choice = self.choices.prologue if in_prologue else self.choices.visual
            drawn = choice.draw(logits, self.uniforms.index_select(1, self.position)[:, 0]) + ids.start
        held = self.held.index_select(1, self.position)[:, 0]
        drawn = torch.where(held == FREE, drawn, held)
        self.drawn.index_copy_(1, self.position, drawn[:, None])
        self.x.copy_(self.decoder.ar.token_embedding(drawn.repeat(len(self.x) // len(drawn))))
        self.position += 1

    def _logits(self, ids: slice, seen: int) -> Tensor:
        """As `Decoder.logits`, with a mask over the part of the cache that comes later."""
        decoder, x = self.decoder, self.x[:, None]
        rotary = decoder.ar.rotary.index_select(0, self.position)  # (1, 32, 2)
        later = (self.inputs[:seen] > self.position)[None, None, None]
        mask = torch.zeros(1, 1, 1, seen, dtype=decoder.cache.dtype, device=x.device).masked_fill(later, -torch.inf)
        for start, finish, (keys, values) in zip(decoder.starts, decoder.finishes, decoder.cache, strict=True):
            q, k, v = start(x, rotary)  # (rows, heads, 1, 64)
            keys.index_copy_(2, self.position, k)
            values.index_copy_(2, self.position, v)
            attended = F.scaled_dot_product_attention(q, keys[:, :, :seen], values[:, :, :seen], attn_mask=mask)
            x = finish(x, attended)
        return decoder.heads[ids.start](decoder.ar.out_norm(x[:, 0])).float()
