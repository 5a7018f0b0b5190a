"""The token cache: one memory-mapped uint16 array [images, views, ids] per image shard, with labels and a manifest.

Ids are those of each token's own codebook: prologue ids first, then visual ids.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from prologue.core.errors import PrologueError
from prologue.core.files import read_json
from prologue.core.seeds import derive_seed
from prologue.core.sharing import own_rows
from prologue.data.order import epoch_indices
from prologue.data.transforms import CENTRED
from prologue.models.tokenizer import Tokens
from prologue.models.vocabulary import Vocabulary


def ids_path(folder: Path, split: str, shard: int) -> Path:
    """The ids of an image shard; its labels are beside it."""
    return folder / split / f"{shard:06d}.npy"


class TokenCache:
    """Cached ids of one split, read straight from the memory maps."""

    def __init__(self, folder: Path, split: str) -> None:
        try:
            self.manifest = read_json(folder / "manifest.json")
        except FileNotFoundError:
            raise PrologueError(f"{folder / 'manifest.json'} is missing: run `dvc repro tokens`") from None
        self.vocabulary = Vocabulary(**self.manifest["vocabulary"])
        paths = sorted(path for path in (folder / split).glob("*.npy") if not path.name.endswith(".labels.npy"))
        self.shards = [np.load(path, mmap_mode="r") for path in paths]
        self.labels: npt.NDArray[np.int64] = np.concatenate(
            [np.load(path.with_suffix(".labels.npy")) for path in paths]
        )
        self.starts = np.cumsum([0, *map(len, self.shards)])
        if self.starts[-1] != self.manifest["counts"][split]["images"]:
            raise PrologueError(f"{folder / split} does not hold the images its manifest lists: run `dvc repro tokens`")
        self.views: int = self.shards[0].shape[1]

    def __len__(self) -> int:
        return int(self.starts[-1])

    def read(self, indices: npt.NDArray[np.int64], views: npt.NDArray[np.int64] | None = None) -> Tokens:
        """Ids of images `indices` (B,) in `views` (B,) (default: that of the centre); int64 tensors."""
        views = np.full_like(indices, CENTRED[self.views]) if views is None else views
        shards = np.searchsorted(self.starts, indices, side="right") - 1
        rows = indices - self.starts[shards]
        ids = np.empty((len(indices), self.shards[0].shape[2]), np.int64)
        for shard in np.unique(shards):
            members = shards == shard
            ids[members] = self.shards[shard][rows[members], views[members]]
        tokens = torch.from_numpy(ids)
        split = self.vocabulary.prologue_tokens
        return Tokens(tokens[:, :split] if split else None, tokens[:, split:])

    def training_batches(
        self, seed: int, batch: int, start: int, stop: int, rank: int, processes: int
    ) -> Iterator[tuple[Tokens, torch.Tensor]]:
        """Tokens and labels (int64) of this process's slice of each step's global batch, one view drawn per image."""
        for step in range(start, stop):
            _, indices = epoch_indices(len(self), seed, batch, step)
            views = np.random.default_rng(derive_seed(seed, step)).integers(self.views, size=batch)
            own = own_rows(batch, rank, processes)
            yield self.read(indices[own], views[own]), torch.from_numpy(self.labels[indices[own]])
