"""The visual transformers of a tokenizer: images to features, code vectors to images (Sec. 2)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prologue.core.params import TokenizerSize, TransformerParams
from prologue.models.transformer import RMSNorm, RotaryAxes, Transformer, ar_hidden, tokenizer_hidden

# Axes (row, column, index): grid tokens stand at (row, column, 0), 1D tokens at (0, 0, index).
AXES = RotaryAxes(dims=(20, 20, 24), thetas=(2000.0, 2000.0, 10000.0))
QUERY_STD = 2e-3  # small: the queries' outputs then depend on the image from the start


class TokenStack(nn.Module):
    """Tokens, then learnable queries, through one transformer: (B, T, input_dim) -> (B, T + queries, dim)."""

    rotary: Tensor

    def __init__(self, size: TransformerParams, input_dim: int, hidden: int, queries: int, positions: Tensor) -> None:
        """`positions` (T + queries, 3) of tokens and queries."""
        super().__init__()
        self.input_layer = nn.Linear(input_dim, size.dim)
        self.queries = nn.Parameter(QUERY_STD * torch.randn(queries, size.dim)) if queries else None
        self.transformer = Transformer(size.layers, size.dim, hidden, bias=True)
        self.register_buffer("rotary", AXES.rotations(positions), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.input_layer(x).float()
        if self.queries is not None:
            x = torch.cat((x, self.queries.expand(len(x), -1, -1)), dim=1)
        return self.transformer(x, self.rotary)  # (B, T + queries, dim)


class ImageEncoder(nn.Module):
    """Images to features of visual tokens, and of `prologue` tokens that share the transformer.

    2D visual tokens are the outputs of the grid's patches; 1D ones are those of `line` queries, 0 for 2D.
    """

    def __init__(self, size: TokenizerSize, grid: int, line: int, prologue: int) -> None:
        super().__init__()
        self.patch, self.visual_tokens = size.patch, line or grid * grid
        self.first = grid * grid if line else 0
        positions = torch.cat((grid_positions(grid), line_positions(line), line_positions(prologue)))
        hidden = tokenizer_hidden(size.encoder.dim)
        self.stack = TokenStack(size.encoder, 3 * self.patch**2, hidden, line + prologue, positions)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images float (B, 3, H, W) in [-1, 1] -> visual (B, Nv, dim), prologue (B, prologue, dim)."""
        x = self.stack(patchify(images, self.patch))[:, self.first :]
        return x[:, : self.visual_tokens], x[:, self.visual_tokens :]


class ImageDecoder(nn.Module):
    """Code vectors to images; of 1D codes, `line` of them, the patches are read off learnable queries."""

    def __init__(self, size: TokenizerSize, grid: int, line: int) -> None:
        super().__init__()
        self.patch, self.grid = size.patch, grid
        queries = grid * grid if line else 0
        positions = torch.cat((line_positions(line), grid_positions(grid)))
        hidden = tokenizer_hidden(size.decoder.dim)
        self.stack = TokenStack(size.decoder, size.code_dim, hidden, queries, positions)
        self.out_norm = RMSNorm(size.decoder.dim)
        self.out = nn.Linear(size.decoder.dim, 3 * self.patch**2)

    def forward(self, codes: Tensor) -> Tensor:
        """Code vectors (B, Nv, code_dim) -> images float (B, 3, H, W), nominally in [-1, 1]."""
        x = self.stack(codes)[:, -(self.grid**2) :]
        return unpatchify(self.out(self.out_norm(x)).float(), self.patch, self.grid)


class PrologueEncoder(nn.Module):
    """Prologue-Post's own encoder: queries that read the frozen encoder's visual features (Sec. 2.3)."""

    def __init__(self, size: TransformerParams, feature_dim: int, features: Tensor, tokens: int) -> None:
        """`features` (Nv, 3): positions of the visual features."""
        super().__init__()
        self.tokens = tokens
        positions = torch.cat((features, line_positions(tokens)))
        self.stack = TokenStack(size, feature_dim, ar_hidden(size.dim), tokens, positions)

    def forward(self, features: Tensor) -> Tensor:
        """Visual features (B, Nv, feature_dim) -> prologue features (B, tokens, dim)."""
        prologue: Tensor = self.stack(features)[:, -self.tokens :]
        return prologue


def patchify(images: Tensor, patch: int) -> Tensor:
    """Cut (B, 3, H, W) into patches (B, Nv, patch * patch * 3), pixels ordered (row, column, channel)."""
    folded = F.unfold(images, patch, stride=patch)  # (B, 3 * patch * patch, Nv), ordered (channel, row, column)
    return folded.unflatten(1, (3, patch * patch)).permute(0, 3, 2, 1).flatten(2)


def unpatchify(patches: Tensor, patch: int, grid: int) -> Tensor:
    """Inverse of `patchify`: (B, Nv, patch * patch * 3) -> (B, 3, H, W)."""
    x = patches.unflatten(2, (patch, patch, 3)).unflatten(1, (grid, grid))  # (B, gh, gw, ph, pw, 3)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), 3, grid * patch, grid * patch)


def grid_positions(grid: int) -> Tensor:
    """Positions (row, column, 0) of a square grid in raster order: (grid * grid, 3)."""
    rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    return torch.stack((rows.flatten(), columns.flatten(), torch.zeros(grid * grid, dtype=torch.long)), dim=1)


def line_positions(count: int) -> Tensor:
    """Positions (0, 0, index) of 1D tokens: (count, 3)."""
    positions = torch.zeros(count, 3, dtype=torch.long)
    positions[:, 2] = torch.arange(count)
    return positions
