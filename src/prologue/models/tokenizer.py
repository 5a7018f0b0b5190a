"""The tokenizer: encoder, quantizers, decoder (Sec. 2). Systems differ by configuration, not by code paths."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prologue.models.config import PrologueConfig, TokenizerConfig
from prologue.models.quantizers import PrologueQuantizer, QuantizedVisual, VisualQuantizer
from prologue.models.transformer import RMSNorm, RotaryAxes, Transformer, ar_hidden, tokenizer_hidden
from prologue.models.vocabulary import Vocabulary
from prologue.params import TransformerParams

# Axes (row, column, index): grid tokens stand at (row, column, 0), 1D tokens at (0, 0, index).
AXES = RotaryAxes(dims=(20, 20, 24), thetas=(2000.0, 2000.0, 10000.0))


QUERY_STD = 2e-3  # small: the queries' outputs then depend on the image from the start


class Tokens(NamedTuple):
    """Ids of a batch, each in its own codebook: prologue (B, Np) or None, visual (B, Nv); int64."""

    prologue: Tensor | None
    visual: Tensor


class EncoderFeatures(NamedTuple):
    """Encoder outputs before the quantizers: visual (B, Nv, dim), prologue (B, Np, dim) or None."""

    visual: Tensor
    prologue: Tensor | None


class TokenizerOutput(NamedTuple):
    """What training needs: reconstruction (B, 3, H, W), quantized visual tokens, prologue one-hots (B, Np, Kp)."""

    reconstruction: Tensor | None
    visual: QuantizedVisual
    prologue: Tensor | None


class Encoder(nn.Module):
    """Tokens, then learnable queries, through one transformer: (B, T, input_dim) -> (B, T + queries, dim)."""

    def __init__(self, params: TransformerParams, input_dim: int, hidden: int, queries: int) -> None:
        super().__init__()
        self.input_layer = nn.Linear(input_dim, params.dim)
        self.queries = nn.Parameter(QUERY_STD * torch.randn(queries, params.dim)) if queries else None
        self.transformer = Transformer(params.layers, params.dim, hidden, bias=True)

    def forward(self, x: Tensor, rotary: Tensor) -> Tensor:
        x = self.input_layer(x).float()
        if self.queries is not None:
            x = torch.cat((x, self.queries.expand(len(x), -1, -1)), dim=1)
        return self.transformer(x, rotary)  # (B, T + queries, dim)


class Decoder(nn.Module):
    """Code vectors to patches: (B, Nv, code_dim) -> (B, Nv, pixels); 1D reads the patches off learnable queries."""

    def __init__(self, params: TransformerParams, code_dim: int, pixels: int, queries: int) -> None:
        super().__init__()
        self.body = Encoder(params, code_dim, tokenizer_hidden(params.dim), queries)
        self.out_norm = RMSNorm(params.dim)
        self.out = nn.Linear(params.dim, pixels)

    def forward(self, codes: Tensor, rotary: Tensor) -> Tensor:
        x = self.body(codes, rotary)[:, -codes.shape[1] :]
        return self.out(self.out_norm(x))


class Tokenizer(nn.Module):
    """Image to visual ids (trained to reconstruct) and prologue ids (trained by the AR model), and back.

    Images enter as uint8 (B, 3, H, W) and leave as float in [-1, 1]. The tokenizer never sees the class.
    """

    rotary_encoder: Tensor
    rotary_decoder: Tensor

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        params, prologue, grid = config.tokenizer, config.prologue, config.grid
        self.visual_tokens = grid * grid
        self.one_d = params.layout == "1d"
        shared = prologue.tokens if prologue and not prologue.encoder else 0
        visual_queries = self.visual_tokens if self.one_d else 0
        pixels = 3 * params.patch**2
        dim = params.encoder.dim
        self.encoder = Encoder(params.encoder, pixels, tokenizer_hidden(dim), visual_queries + shared)
        self.visual_quantizer = VisualQuantizer(dim, params.code_dim, params.codebook, params.commitment)
        self.decoder = Decoder(params.decoder, params.code_dim, pixels, visual_queries)
        self.prologue_encoder: Encoder | None = None
        self.prologue_quantizer: PrologueQuantizer | None = None
        if prologue:
            self.attach_prologue(prologue)
        patches, queries = grid_positions(grid), line_positions(visual_queries)
        self.register_buffer(
            "rotary_encoder", AXES.turns(torch.cat((patches, queries, line_positions(shared)))), persistent=False
        )
        codes = torch.cat((queries, patches)) if self.one_d else patches
        self.register_buffer("rotary_decoder", AXES.turns(codes), persistent=False)

    def attach_prologue(self, prologue: PrologueConfig) -> None:
        """Add the prologue's quantizer and, for Prologue-Post, its own encoder over the visual features (Sec. 2.3)."""
        self.config = self.config.model_copy(update={"prologue": prologue})
        dim = self.config.tokenizer.encoder.dim
        if prologue.encoder:
            own = prologue.encoder
            self.prologue_encoder = Encoder(own, dim, ar_hidden(own.dim), prologue.tokens)
            features = line_positions(self.visual_tokens) if self.one_d else grid_positions(self.config.grid)
            positions = torch.cat((features, line_positions(prologue.tokens)))
            self.register_buffer("rotary_prologue", AXES.turns(positions), persistent=False)
            dim = own.dim
        self.prologue_quantizer = PrologueQuantizer(
            dim, self.config.tokenizer.code_dim, prologue.codebook, prologue.tau
        )

    @property
    def prologue_tokens(self) -> int:
        """Prologue tokens per image; 0 without a prologue."""
        return self.config.prologue.tokens if self.config.prologue else 0

    @property
    def prologue_codebook(self) -> int:
        """Prologue codes; 0 without a prologue."""
        return self.config.prologue.codebook if self.config.prologue else 0

    def vocabulary(self, classes: int) -> Vocabulary:
        """The vocabulary of an AR model over this tokenizer's ids and `classes` classes."""
        return Vocabulary(
            visual_codebook=self.config.tokenizer.codebook,
            prologue_codebook=self.prologue_codebook,
            visual_tokens=self.visual_tokens,
            prologue_tokens=self.prologue_tokens,
            classes=classes,
        )

    def encoder_features(self, images: Tensor) -> EncoderFeatures:
        """Features before the quantizers of images uint8 (B, 3, H, W)."""
        x = self.encoder(patchify(images / 127.5 - 1, self.config.tokenizer.patch), self.rotary_encoder)
        first = self.visual_tokens if self.one_d else 0  # 1D tokens are the queries' outputs
        visual = x[:, first : first + self.visual_tokens]
        if self.prologue_encoder is not None:
            own = self.prologue_encoder(visual, self.get_buffer("rotary_prologue"))
            return EncoderFeatures(visual, own[:, self.visual_tokens :])
        return EncoderFeatures(visual, x[:, first + self.visual_tokens :] if self.prologue_quantizer else None)

    def forward(self, images: Tensor, reconstruct: bool = True, routed_tau: float | None = None) -> TokenizerOutput:
        """Training pass of images uint8 (B, 3, H, W); `routed_tau` as in `VisualQuantizer`."""
        features = self.encoder_features(images)
        visual = self.visual_quantizer(features.visual, routed_tau)
        prologue = None
        if self.prologue_quantizer is not None and features.prologue is not None:
            prologue = self.prologue_quantizer(features.prologue)
        return TokenizerOutput(self.decode_vectors(visual.vectors) if reconstruct else None, visual, prologue)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tokens:
        """Ids of images uint8 (B, 3, H, W)."""
        features = self.encoder_features(images)
        visual = self.visual_quantizer.encode(features.visual)
        if self.prologue_quantizer is None or features.prologue is None:
            return Tokens(None, visual)
        return Tokens(self.prologue_quantizer.encode(features.prologue), visual)

    @torch.no_grad()
    def decode(self, visual: Tensor) -> Tensor:
        """Images of visual ids (B, Nv): float (B, 3, H, W), nominally in [-1, 1], not clipped."""
        return self.decode_vectors(self.visual_quantizer.vectors(visual))

    def decode_vectors(self, vectors: Tensor) -> Tensor:
        """Images of code vectors (B, Nv, code_dim): float (B, 3, H, W)."""
        patches = self.decoder(vectors, self.rotary_decoder)
        return unpatchify(patches.float(), self.config.tokenizer.patch, self.config.grid)


def patchify(images: Tensor, patch: int) -> Tensor:
    """Cut (B, 3, H, W) into patches (B, Nv, patch * patch * 3), pixels ordered (row, column, channel)."""
    folded = F.unfold(images, patch, stride=patch)  # (B, 3 * patch * patch, Nv), ordered (channel, row, column)
    return folded.unflatten(1, (3, patch * patch)).permute(0, 3, 2, 1).flatten(2)


def unpatchify(patches: Tensor, patch: int, grid: int) -> Tensor:
    """Inverse of `patchify`: (B, Nv, patch * patch * 3) -> (B, 3, H, W)."""
    x = patches.unflatten(2, (patch, patch, 3)).unflatten(1, (grid, grid))  # (B, gh, gw, ph, pw, 3)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), 3, grid * patch, grid * patch)


def to_uint8(images: Tensor) -> Tensor:
    """Round float images in [-1, 1] to uint8 as they are saved: clip, scale to 0..255, round to nearest."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def grid_positions(grid: int) -> Tensor:
    """Positions (row, column, 0) of a square grid in raster order: (grid * grid, 3)."""
    rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    return torch.stack((rows.flatten(), columns.flatten(), torch.zeros(grid * grid, dtype=torch.long)), dim=1)


def line_positions(count: int) -> Tensor:
    """Positions (0, 0, index) of 1D tokens: (count, 3)."""
    positions = torch.zeros(count, 3, dtype=torch.long)
    positions[:, 2] = torch.arange(count)
    return positions
