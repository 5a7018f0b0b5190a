"""What it takes to build a tokenizer again: saved as config.json beside its weights."""

from prologue.params import Section, TokenizerSize, TransformerParams


class PrologueConfig(Section):
    """The prologue part of a tokenizer; `encoder` is Prologue-Post's own, None where the encoder is shared."""

    tokens: int
    codebook: int
    tau: float
    encoder: TransformerParams | None


class TokenizerConfig(Section):
    """All that is needed to build a `Tokenizer`."""

    image_size: int
    tokenizer: TokenizerSize
    prologue: PrologueConfig | None

    @property
    def grid(self) -> int:
        """Patches per side."""
        return self.image_size // self.tokenizer.patch
