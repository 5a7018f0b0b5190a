"""The autoregressive model over [class] prologue [EOS] visual, and the one vocabulary it reads and predicts."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prologue.models.transformer import RMSNorm, RotaryAxes, Transformer, ar_hidden
from prologue.params import Section, TransformerParams

# Axes (index, row, column); every token stands at (index, 0, 0), the class embedding at 0.
AXES = RotaryAxes(dims=(24, 20, 20), thetas=(10000.0, 10000.0, 10000.0))


class Vocabulary(Section):
    """Where ids live: visual ids first, then prologue ids, then one EOS; the only place with offsets.

    Without a prologue there is no EOS and the sequence is the visual tokens alone.
    """

    visual_codebook: int
    prologue_codebook: int
    visual_tokens: int
    prologue_tokens: int
    classes: int

    @property
    def size(self) -> int:
        """Ids that the model predicts over."""
        return self.visual_codebook + self.prologue_codebook + (1 if self.prologue_tokens else 0)

    @property
    def eos(self) -> int:
        """Id of EOS, the separator between prologue and visual tokens."""
        return self.visual_codebook + self.prologue_codebook

    @property
    def null_class(self) -> int:
        """The class that stands for 'no class'."""
        return self.classes

    @property
    def prefix(self) -> int:
        """Positions before the first visual token: the prologue and EOS."""
        return self.prologue_tokens + 1 if self.prologue_tokens else 0

    @property
    def length(self) -> int:
        """Predicted positions: prologue, EOS, visual."""
        return self.prefix + self.visual_tokens

    @property
    def prologue_ids(self) -> slice:
        """The prologue's slice of the vocabulary."""
        return slice(self.visual_codebook, self.visual_codebook + self.prologue_codebook)

    @property
    def visual_ids(self) -> slice:
        """The visual slice of the vocabulary."""
        return slice(0, self.visual_codebook)

    def sequence(self, prologue: Tensor | None, visual: Tensor) -> Tensor:
        """Vocabulary ids of the predicted sequence: ids of their own codebooks -> (B, length)."""
        if prologue is None:
            return visual
        eos = torch.full_like(visual[:, :1], self.eos)
        return torch.cat((prologue + self.visual_codebook, eos, visual), dim=1)


class ARConfig(Section):
    """All that is needed to build an `ARModel`; saved beside its weights."""

    vocabulary: Vocabulary
    transformer: TransformerParams
    dropout: float = 0.0
    embedding_dropout: float = 0.0


@dataclass(frozen=True)
class SequenceLoss:
    """Cross-entropies in nats, summed over a segment's tokens, per image (B,)."""

    prologue: Tensor
    eos: Tensor
    visual: Tensor

    @property
    def total(self) -> Tensor:
        """Negative log-likelihood of the whole sequence per image (B,)."""
        return self.prologue + self.eos + self.visual


class ARModel(nn.Module):
    """Decoder-only transformer that knows a `Vocabulary` and nothing of tokenizers. No biases, untied output."""

    rotary: Tensor

    def __init__(self, config: ARConfig) -> None:
        super().__init__()
        self.config = config
        self.vocabulary = config.vocabulary
        dim = config.transformer.dim
        self.class_embedding = nn.Embedding(self.vocabulary.classes + 1, dim)
        self.token_embedding = nn.Embedding(self.vocabulary.size, dim)
        self.embedding_dropout = nn.Dropout(config.embedding_dropout)
        self.transformer = Transformer(
            config.transformer.layers, dim, ar_hidden(dim), bias=False, dropout=config.dropout
        )
        self.out_norm = RMSNorm(dim)
        self.out = nn.Linear(dim, self.vocabulary.size, bias=False)
        for embedding in (self.class_embedding, self.token_embedding):
            nn.init.normal_(embedding.weight, std=0.02)
        nn.init.normal_(self.out.weight, std=0.02)
        positions = torch.zeros(self.vocabulary.length, 3, dtype=torch.long)
        positions[:, 0] = torch.arange(self.vocabulary.length)
        self.register_buffer("rotary", AXES.turns(positions), persistent=False)

    def forward(
        self, prologue: Tensor | None, visual: Tensor, classes: Tensor, drop_visual: Tensor | None = None
    ) -> Tensor:
        """Logits of every position over [visual, prologue, EOS].

        Args:
            prologue: ids (B, Np), one-hots (B, Np, Kp) through which gradients flow, or None without a prologue.
            visual: ids (B, Nv).
            classes: ids (B,); `vocabulary.null_class` is unconditional.
            drop_visual: bool (B,); where true every visual input is replaced by EOS (visual dropout, Sec. 2.2).

        Returns:
            (B, length, vocabulary size), predicting prologue, EOS, visual in order.
        """
        x = [self.class_embedding(classes)[:, None]]
        if prologue is not None:
            x += [self.embed_prologue(prologue), self.embed_eos(len(visual))]
        inputs = visual[:, :-1]  # the last token is only predicted
        if drop_visual is not None:
            inputs = torch.where(drop_visual[:, None], self.vocabulary.eos, inputs)
        x.append(self.token_embedding(inputs))
        hidden = self.embedding_dropout(torch.cat(x, dim=1))  # (B, length, dim)
        return self.out(self.out_norm(self.transformer(hidden, self.rotary, causal=True)))

    def embed_prologue(self, prologue: Tensor) -> Tensor:
        """Input embeddings of prologue ids (B, Np), or of one-hots (B, Np, Kp) as one_hot @ W (App. E)."""
        if prologue.is_floating_point():
            return prologue @ self.token_embedding.weight[self.vocabulary.prologue_ids]
        return self.token_embedding(prologue + self.vocabulary.visual_codebook)

    def embed_eos(self, batch: int) -> Tensor:
        """Input embedding of EOS: (B, 1, dim)."""
        return self.token_embedding.weight[self.vocabulary.eos].expand(batch, 1, -1)

    def loss(self, logits: Tensor, prologue: Tensor | None, visual: Tensor) -> SequenceLoss:
        """Cross-entropy of logits (B, length, V) against ids (B, Np) or None, and (B, Nv); targets have no gradient."""
        targets = self.vocabulary.sequence(prologue, visual)
        losses = F.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")  # (B, length)
        tokens, prefix = self.vocabulary.prologue_tokens, self.vocabulary.prefix
        return SequenceLoss(losses[:, :tokens].sum(1), losses[:, tokens:prefix].sum(1), losses[:, prefix:].sum(1))

    def parameter_counts(self) -> dict[str, Any]:
        """Parameters of the whole model, embeddings included."""
        return {"ar": sum(parameter.numel() for parameter in self.parameters())}
