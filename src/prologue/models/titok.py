"""TiTok: an image as a fixed number of latent tokens of a vision transformer [Yu et al. 2024]."""

import torch
from torch import Tensor, nn

from prologue.core.conventions import HEAD_DIM
from prologue.core.params import TransformerParams
from prologue.models.config import TiTokSize
from prologue.models.imported import NearestQuantizer, from_signed, to_grid, to_signed_range
from prologue.models.maskgit_vq import MaskGITDecoder
from prologue.models.vit import unpatchify


def titok_parts(size: TiTokSize) -> tuple["TiTokEncoder", NearestQuantizer, "TiTokDecoder"]:
    """Encoder, quantizer and decoder of a size."""
    projection = (MixedProjection if size.legacy else nn.Linear)(size.encoder.dim, size.code_dim)
    quantizer = NearestQuantizer(projection, size.codebook, size.code_dim, size.l2_norm)
    return TiTokEncoder(size), quantizer, TiTokDecoder(size)


class MixedProjection(nn.Linear):
    """A linear layer over latents (B, N, dim) that were reshaped to (B, dim, N), not transposed.

    The published models were trained so: a token is made of slices of several latents.
    """

    def forward(self, latents: Tensor) -> Tensor:
        """(B, N, dim) -> (B, N, code_dim)."""
        return super().forward(latents.reshape(len(latents), self.in_features, -1).transpose(1, 2))


class TokenTransformer(nn.Module):
    """[class] patches latents through pre-norm blocks; which part is read is the caller's choice."""

    def __init__(self, size: TransformerParams, patches: int, tokens: int) -> None:
        super().__init__()
        self.patches = patches
        self.class_embedding = nn.Parameter(torch.zeros(1, size.dim))
        self.positions = nn.Parameter(torch.zeros(1 + patches, size.dim))  # of class and patches
        self.token_positions = nn.Parameter(torch.zeros(tokens, size.dim))
        self.ln_pre, self.ln_post = nn.LayerNorm(size.dim), nn.LayerNorm(size.dim)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                size.dim,
                size.dim // HEAD_DIM,
                4 * size.dim,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(size.layers)
        )

    def forward(self, patches: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, patches, dim), (B, tokens, dim) -> like both."""
        first = self.class_embedding.expand(len(patches), 1, -1)
        x = torch.cat((torch.cat((first, patches), dim=1) + self.positions, tokens + self.token_positions), dim=1)
        x = self.ln_pre(x)
        for block in self.blocks:
            x = block(x)
        x = self.ln_post(x[:, 1:])
        return x[:, : self.patches], x[:, self.patches :]


class TiTokEncoder(nn.Module):
    """Images to latents, before the projection to the codebook."""

    def __init__(self, size: TiTokSize) -> None:
        super().__init__()
        self.image_size = size.image_size
        self.patch_embed = nn.Conv2d(3, size.encoder.dim, size.patch, stride=size.patch)
        self.latents = nn.Parameter(torch.zeros(size.tokens, size.encoder.dim))
        self.transformer = TokenTransformer(size.encoder, (size.image_size // size.patch) ** 2, size.tokens)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images float (B, 3, H, W) in [-1, 1] -> latents (B, N, dim), and nothing for a prologue."""
        if images.shape[2:] != (self.image_size, self.image_size):
            raise ValueError(f"this tokenizer reads images of {self.image_size} px, not of {tuple(images.shape[2:])}")
        patches = self.patch_embed(from_signed(images, "unit")).flatten(2).transpose(1, 2)
        _, latents = self.transformer(patches, self.latents.expand(len(images), -1, -1))
        return latents, latents[:, :0]


class TiTokDecoder(nn.Module):
    """Code vectors to images, at once or by way of a MaskGIT decoder, whose codes it mixes by their probabilities."""

    def __init__(self, size: TiTokSize) -> None:
        super().__init__()
        self.patch, self.grid = size.decoder_patch, size.image_size // size.decoder_patch
        dim, pixel = size.decoder.dim, size.pixel_decoder
        self.embed = nn.Linear(size.code_dim, dim)
        self.mask = nn.Parameter(torch.zeros(1, 1, dim))
        self.transformer = TokenTransformer(size.decoder, self.grid**2, size.tokens)
        outputs = pixel.codebook if pixel else 3 * self.patch**2
        hidden = [nn.Linear(dim, size.head), nn.Tanh()] if size.head else []
        self.head = nn.Sequential(*hidden, nn.Linear(size.head or dim, outputs))
        self.pixel_codes = nn.Embedding(pixel.codebook, pixel.code_dim) if pixel else None
        self.pixels = MaskGITDecoder(pixel) if pixel else nn.Conv2d(3, 3, 3, padding=1)
        self.pixels.to(memory_format=torch.channels_last)

    def forward(self, codes: Tensor) -> Tensor:
        """Code vectors (B, N, code_dim) -> images float (B, 3, H, W), nominally in [-1, 1]."""
        masks = self.mask.expand(len(codes), self.grid**2, -1)
        patches, _ = self.transformer(masks, self.embed(codes))
        x = self.head(patches)
        if self.pixel_codes is None:
            x = unpatchify(x, self.patch, self.grid).contiguous(memory_format=torch.channels_last)
        else:
            x = to_grid(x.softmax(dim=-1) @ self.pixel_codes.weight)  # (B, code_dim, grid, grid)
        return to_signed_range(self.pixels(x), "unit")
