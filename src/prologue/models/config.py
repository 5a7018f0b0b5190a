"""What it takes to build a tokenizer again: saved as config.json beside its weights."""

from typing import Any, Literal

from prologue.core.params import Section, TokenizerSize, TransformerParams


class PrologueConfig(Section):
    """The prologue part of a tokenizer; `encoder` is Prologue-Post's own, None where the encoder is shared."""

    tokens: int
    codebook: int
    tau: float
    encoder: TransformerParams | None


class VQModelSize(Section):
    """A visual tokenizer of another project: diffusers' `VQModel`.

    Attributes:
        pixels: the range that its images have: signed, [-1, 1], or unit, [0, 1].
        vq_model: the library's own config.
    """

    layout: Literal["2d"] = "2d"
    pixels: Literal["signed", "unit"]
    vq_model: dict[str, Any]

    @property
    def patch(self) -> int:
        """Pixels per side that one token stands for."""
        return 2 ** (len(self.vq_model["block_out_channels"]) - 1)

    @property
    def feature_dim(self) -> int:
        """Channels before the quantizer."""
        return int(self.vq_model["latent_channels"])

    @property
    def code_dim(self) -> int:
        """Dimension of the codebook."""
        return int(self.vq_model.get("vq_embed_dim") or self.vq_model["latent_channels"])

    @property
    def codebook(self) -> int:
        """Number of codes."""
        return int(self.vq_model["num_vq_embeddings"])


class TokenizerConfig(Section):
    """All that is needed to build a `Tokenizer`."""

    image_size: int
    tokenizer: TokenizerSize | VQModelSize
    prologue: PrologueConfig | None

    @property
    def grid(self) -> int:
        """Tokens per side."""
        return self.image_size // self.tokenizer.patch

    @property
    def feature_dim(self) -> int:
        """Channels of the visual features before the quantizer."""
        size = self.tokenizer
        return size.feature_dim if isinstance(size, VQModelSize) else size.encoder.dim
