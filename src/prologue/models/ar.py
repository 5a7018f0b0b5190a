"""The autoregressive model over [class] prologue [EOS] visual."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from prologue.core.params import Section, TransformerParams
from prologue.models.dropout import RowDropout
from prologue.models.transformer import RMSNorm, RotaryAxes, Transformer, ar_hidden
from prologue.models.vocabulary import Vocabulary

# Axes (index, row, column); every token stands at (index, 0, 0), the class embedding at 0.
AXES = RotaryAxes(dims=(24, 20, 20), thetas=(10000.0, 10000.0, 10000.0))
MAX_LOGITS = 2**27  # of a training at once, 512 MB in fp32; where a batch has more, their parts are computed twice


class ARConfig(Section):
    """All that is needed to build an `ARModel`; saved beside its weights."""

    vocabulary: Vocabulary
    transformer: TransformerParams
    dropout: float = 0.0
    embedding_dropout: float = 0.0
    tied: bool = False  # the output layer is the token embedding


@dataclass(frozen=True)
class SequenceLoss:
    """Cross-entropies of each segment's tokens in nats: sums per image (B,), or scalars after `per_token`."""

    prologue: Tensor
    eos: Tensor
    visual: Tensor

    @classmethod
    def of(cls, losses: Tensor, vocabulary: Vocabulary) -> "SequenceLoss":
        """The sums of an AR model's losses (B, length)."""
        tokens, prefix = vocabulary.prologue_tokens, vocabulary.prefix
        return cls(losses[:, :tokens].sum(1), losses[:, tokens:prefix].sum(1), losses[:, prefix:].sum(1))

    @property
    def total(self) -> Tensor:
        """Negative log-likelihood of the whole sequence."""
        return self.prologue + self.eos + self.visual

    def per_token(self, vocabulary: Vocabulary) -> "SequenceLoss":
        """Mean over images, divided by the length of the whole sequence: scalars that add up to nats per token."""
        parts = (self.prologue, self.eos, self.visual)
        return SequenceLoss(*(part.mean() / vocabulary.length for part in parts))


class ARModel(nn.Module):
    """Decoder-only transformer that knows a `Vocabulary` and nothing of tokenizers. No biases."""

    rotary: Tensor

    def __init__(self, config: ARConfig) -> None:
        super().__init__()
        self.config = config
        self.vocabulary = config.vocabulary
        dim = config.transformer.dim
        self.class_embedding = nn.Embedding(self.vocabulary.classes + 1, dim)
        self.token_embedding = nn.Embedding(self.vocabulary.size, dim)
        self.embedding_dropout = RowDropout(config.embedding_dropout)
        self.transformer = Transformer(
            config.transformer.layers, dim, ar_hidden(dim), bias=False, dropout=config.dropout
        )
        self.out_norm = RMSNorm(dim)
        self.out = None if config.tied else nn.Linear(dim, self.vocabulary.size, bias=False)
        for layer in (self.class_embedding, self.token_embedding, self.out):
            if layer is not None:
                nn.init.normal_(layer.weight, std=0.02)
        positions = torch.zeros(self.vocabulary.length, 3, dtype=torch.long)
        positions[:, 0] = torch.arange(self.vocabulary.length)
        self.register_buffer("rotary", AXES.rotations(positions), persistent=False)

    def forward(
        self, prologue: Tensor | None, visual: Tensor, classes: Tensor, drop_visual: Tensor | None = None
    ) -> Tensor:
        """Logits of every position over [visual, prologue, EOS].

        Args:
            prologue: ids (B, Np), one-hots (B, Np, Kp) through which gradients flow, or None without a prologue.
            visual: ids (B, Nv), or one-hots (B, Nv, Kv) through which gradients flow.
            classes: ids (B,); `vocabulary.null_class` is unconditional.
            drop_visual: bool (B,); where true every visual input is replaced by EOS (visual dropout, Sec. 2.2).

        Returns:
            (B, length, vocabulary size), predicting prologue, EOS, visual in order.
        """
        return self.project(self.hidden(prologue, visual, classes, drop_visual))

    def losses(
        self, prologue: Tensor | None, visual: Tensor, classes: Tensor, drop_visual: Tensor | None = None
    ) -> Tensor:
        """Cross-entropy of every token given those before it: (B, length), nats, fp32. Args as of `forward`.

        As targets the ids have no gradient. Logits are never all there, where there are many.
        """
        hidden = self.hidden(prologue, visual, classes, drop_visual)
        targets = self.vocabulary.sequence(None if prologue is None else ids_of(prologue), ids_of(visual))
        return self._parted_losses(hidden.flatten(0, 1), targets.flatten()).view(targets.shape)

    def _parted_losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropies (N,) of the tokens after hidden states (N, dim), at most MAX_LOGITS logits at once."""
        rows = max(1, MAX_LOGITS // self.vocabulary.size)
        if len(targets) <= rows:
            return cross_entropy(self.project(hidden), targets)
        return torch.cat(
            [
                checkpoint(
                    lambda own, ids: cross_entropy(self.project(own), ids),
                    *part,
                    use_reentrant=False,
                    preserve_rng_state=False,  # nothing is drawn
                )
                for part in zip(hidden.split(rows), targets.split(rows), strict=True)
            ]
        )

    def hidden(
        self, prologue: Tensor | None, visual: Tensor, classes: Tensor, drop_visual: Tensor | None = None
    ) -> Tensor:
        """What predicts every token, before the output layer: (B, length, dim). Args as of `forward`."""
        x = [self.class_embedding(classes)[:, None]]
        if prologue is not None:
            x += [self.embed(prologue, self.vocabulary.prologue_ids), self.embed_eos(len(visual))]
        inputs = self.embed(visual[:, :-1], self.vocabulary.visual_ids)  # the last token is only predicted
        if drop_visual is not None:
            inputs = torch.where(drop_visual[:, None, None], self.embed_eos(len(visual)), inputs)
        x.append(inputs)
        embedded = self.embedding_dropout(torch.cat(x, dim=1))
        return self.transformer(embedded, self.rotary, causal=True)

    def embed(self, tokens: Tensor, ids: slice) -> Tensor:
        """Input embeddings of ids (B, N) of the book at `ids`, or of one-hots (B, N, K) as one_hot @ W (App. E)."""
        if tokens.is_floating_point():
            return tokens @ self.token_embedding.weight[ids]
        return self.token_embedding(tokens + ids.start)

    def embed_eos(self, batch: int) -> Tensor:
        """Input embedding of EOS: (B, 1, dim)."""
        return self.token_embedding.weight[self.vocabulary.eos].expand(batch, 1, -1)

    def project(self, hidden: Tensor) -> Tensor:
        """Logits of the whole vocabulary: (..., dim) -> (..., V)."""
        return F.linear(self.out_norm(hidden), self.output_weight)

    @property
    def output_weight(self) -> Tensor:
        """Weights of the output layer, which is the token embedding where tied: (V, dim)."""
        return self.token_embedding.weight if self.out is None else self.out.weight


class TokenLosses(nn.Module):
    """An AR model whose call gives its losses: what is trained, since launches wrap the call of a module alone."""

    def __init__(self, ar: ARModel) -> None:
        super().__init__()
        self.ar = ar

    def forward(
        self, prologue: Tensor | None, visual: Tensor, classes: Tensor, drop_visual: Tensor | None = None
    ) -> Tensor:
        """As `ARModel.losses`."""
        return self.ar.losses(prologue, visual, classes, drop_visual)


def ids_of(tokens: Tensor) -> Tensor:
    """Ids (B, N) of ids, or of one-hots (B, N, K)."""
    return tokens.argmax(dim=-1) if tokens.is_floating_point() else tokens


def cross_entropy(logits: Tensor, ids: Tensor) -> Tensor:
    """Cross-entropies of ids (...) by logits (..., V), nats, fp32."""
    return F.cross_entropy(logits.float().flatten(0, -2), ids.flatten(), reduction="none").view(ids.shape)
