"""What it takes to build a tokenizer again: saved as config.json beside its weights."""

from typing import Any, Literal

from prologue.core.params import Pixels, Section, TokenizerSize, TransformerParams


class PrologueConfig(Section):
    """The prologue part of a tokenizer; `encoder` is Prologue-Post's own, None where the encoder is shared."""

    tokens: int
    codebook: int
    tau: float
    encoder: TransformerParams | None


class VQModelSize(Section):
    """A VQGAN: of taming, of LlamaGen, or a `VQModel` that diffusers saved.

    Attributes:
        pixels: the range that its images have: signed, [-1, 1], or unit, [0, 1].
        l2_norm: whether features and codes are compared, and codes decoded, as unit vectors.
        vq_model: the config of diffusers' class, which computes all of them.
    """

    layout: Literal["2d"] = "2d"
    pixels: Pixels
    l2_norm: bool = False
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


class MaskGITSize(Section):
    """MaskGIT's VQGAN in PyTorch, which RAR and TiTok's first stage use; also TiTok's pixel decoder alone.

    Attributes:
        hidden: channels of the first convolution.
        channels: of each level, finest first.
        blocks: residual blocks of a level.
        code_dim: dimension of the codebook, which is compared with the encoder's output as it is.
        codebook: number of codes.
    """

    layout: Literal["2d"] = "2d"
    pixels: Literal["unit"] = "unit"
    hidden: int
    channels: list[int]
    blocks: int
    code_dim: int
    codebook: int

    @property
    def patch(self) -> int:
        """Pixels per side that one token stands for."""
        return 2 ** (len(self.channels) - 1)

    @property
    def feature_dim(self) -> int:
        """Channels before the quantizer."""
        return self.code_dim


class TiTokSize(Section):
    """TiTok: a fixed number of latent tokens in a vision transformer of a fixed image size.

    Attributes:
        image_size: px.
        tokens: per image.
        patch, decoder_patch: px of the encoder's and the decoder's patches.
        encoder, decoder: transformers; heads = dim / 64.
        l2_norm: as of `VQModelSize`.
        legacy: whether latents are reshaped, not transposed, before the projection: each token mixes several latents.
        head: channels between the two layers of the decoder's output; none where it is one layer.
        pixel_decoder: reads the decoder's probabilities of its codes; none where the decoder gives pixels itself.
    """

    layout: Literal["1d"] = "1d"
    pixels: Literal["unit"] = "unit"
    image_size: int
    tokens: int
    patch: int
    decoder_patch: int
    encoder: TransformerParams
    decoder: TransformerParams
    code_dim: int
    codebook: int
    l2_norm: bool
    legacy: bool
    head: int | None
    pixel_decoder: MaskGITSize | None

    @property
    def feature_dim(self) -> int:
        """Dimension of a latent before the projection."""
        return self.encoder.dim


ImportedSize = VQModelSize | MaskGITSize | TiTokSize


class TokenizerConfig(Section):
    """All that is needed to build a `Tokenizer`."""

    image_size: int
    tokenizer: TokenizerSize | ImportedSize
    prologue: PrologueConfig | None

    @property
    def grid(self) -> int:
        """Patches per side of an image; of 2D layouts, tokens per side."""
        return self.image_size // self.tokenizer.patch

    @property
    def visual_tokens(self) -> int:
        """Visual tokens per image: one per patch, or in layout 1d as many as the tokenizer has."""
        size = self.tokenizer
        if size.layout == "2d" or isinstance(size, VQModelSize | MaskGITSize):
            return self.grid**2
        return size.tokens or self.grid**2

    @property
    def feature_dim(self) -> int:
        """Channels of the visual features before the quantizer."""
        size = self.tokenizer
        return size.encoder.dim if isinstance(size, TokenizerSize) else size.feature_dim
