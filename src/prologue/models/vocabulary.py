"""The one vocabulary that AR models read and predict, and the sequence it makes of an image's tokens."""

import torch
from torch import Tensor

from prologue.core.params import Section


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

    def ids_at(self, position: int) -> slice:
        """The slice of ids that can stand at a predicted position: the prologue's, EOS alone, or visual ones."""
        if position < self.prologue_tokens:
            return self.prologue_ids
        return slice(self.eos, self.eos + 1) if position < self.prefix else self.visual_ids

    def sequence(self, prologue: Tensor | None, visual: Tensor) -> Tensor:
        """Vocabulary ids of the predicted sequence: ids of their own codebooks -> (B, length)."""
        if prologue is None:
            return visual
        eos = torch.full_like(visual[:, :1], self.eos)
        return torch.cat((prologue + self.visual_codebook, eos, visual), dim=1)

    def split(self, ids: Tensor) -> tuple[Tensor | None, Tensor]:
        """The reverse of `sequence`: vocabulary ids (B, length) -> prologue (B, Np) or None, and visual (B, Nv)."""
        prologue = ids[:, : self.prologue_tokens] - self.visual_codebook if self.prologue_tokens else None
        return prologue, ids[:, self.prefix :]
