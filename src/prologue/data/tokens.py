"""The token cache: one memory-mapped uint16 array [images, views, ids] per image shard, with labels and a manifest.

Ids are those of each token's own codebook: prologue ids first, then visual ids.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from prologue.data.images import MANIFEST, ImageShards
from prologue.data.loader import Batch, view_batches
from prologue.data.order import epoch_indices, share_of
from prologue.data.transforms import CROPS
from prologue.errors import PrologueError
from prologue.files import read_json, replacing, write_json
from prologue.fingerprint import fingerprint
from prologue.launch import progress
from prologue.models.export import load_tokenizer
from prologue.models.tokenizer import Tokenizer, Tokens
from prologue.models.vocabulary import Vocabulary
from prologue.params import Params
from prologue.runtime import replacing_together, start_accelerator
from prologue.seeds import derive_seed


def write_tokens(params: Params, tokenizer_folder: Path, shards: Path, output: Path) -> dict[str, Any]:
    """Encode every image of the shards: training images in all views of `tokens.crops`, validation images centred.

    Where no AR model is to be trained on them, training images are left out. Every process encodes its own shards; a
    run that was killed goes on with those that are missing. Returns the metrics of the stage.
    """
    accelerator = start_accelerator()
    tokenizer = load_tokenizer(tokenizer_folder, accelerator.device)
    inputs = [shards / MANIFEST, *sorted(tokenizer_folder.glob("*.*"))]
    settings = (params.tokens.crops, params.data.image_size, params.trains_stage2)
    schemes = {"train": params.tokens.crops, "val": "center"}
    if not params.trains_stage2:
        del schemes["train"]
    counts = {}
    with replacing_together(output, accelerator, fingerprint(settings, inputs)) as folder:
        for split, scheme in schemes.items():
            images = ImageShards(shards, split)
            (folder / split).mkdir(exist_ok=True)
            own = range(accelerator.process_index, len(images.shard_sizes), accelerator.num_processes)
            missing = [shard for shard in own if not ids_path(folder, split, shard).is_file()]
            for shard in progress(missing, f"tokens {split}", "shard"):
                _write_shard(folder, tokenizer, images, split, shard, scheme, params.tokens.batch)
            counts[split] = {"images": len(images), "views": CROPS[scheme]}
        if accelerator.is_main_process:
            vocabulary = tokenizer.vocabulary(len(images.classes)).model_dump()
            manifest = {"classes": images.class_names, "counts": counts, "vocabulary": vocabulary}
            write_json(folder / "manifest.json", manifest)
    return counts


def ids_path(folder: Path, split: str, shard: int) -> Path:
    """The ids of an image shard; its labels are beside it."""
    return folder / split / f"{shard:06d}.npy"


def _write_shard(
    folder: Path, tokenizer: Tokenizer, images: ImageShards, split: str, shard: int, scheme: str, batch: int
) -> None:
    """Encode one image shard; its ids appear last and whole, so that they say that it is done."""
    start = sum(images.shard_sizes[:shard])
    indices = np.arange(start, start + images.shard_sizes[shard])
    batches = view_batches(images, tokenizer.config.image_size, scheme, indices, batch)
    path = ids_path(folder, split, shard)
    arrays = {
        path.with_suffix(".labels.npy"): images.labels[indices],
        path: _encode_shard(tokenizer, batches, len(indices), scheme),
    }
    for name, array in arrays.items():
        with replacing(name) as temporary, temporary.open("wb") as file:
            np.save(file, array)


def _encode_shard(tokenizer: Tokenizer, batches: Iterator[Batch], count: int, scheme: str) -> npt.NDArray[np.uint16]:
    """Ids of one shard's images: (count, views, prologue + visual tokens)."""
    device = next(tokenizer.parameters()).device
    ids = np.empty((count, CROPS[scheme], tokenizer.prologue_tokens + tokenizer.visual_tokens), np.uint16)
    done = 0
    for views, _ in batches:
        tokens = tokenizer.encode(views.flatten(0, 1).to(device))
        parts = [part for part in tokens if part is not None]
        encoded = torch.cat(parts, dim=1).unflatten(0, (len(views), -1))
        ids[done : done + len(views)] = encoded.cpu().numpy()
        done += len(views)
    return ids


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
        """Ids of images `indices` (B,) in `views` (B,) (default: the first, the centre crop); int64 tensors."""
        views = np.zeros_like(indices) if views is None else views
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
            own = share_of(batch, rank, processes)
            yield self.read(indices[own], views[own]), torch.from_numpy(self.labels[indices[own]])
