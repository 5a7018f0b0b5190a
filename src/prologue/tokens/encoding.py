"""Writing the token cache: every image of the shards encoded once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from prologue.core.files import replacing, write_json
from prologue.core.launch import progress
from prologue.core.params import Params
from prologue.core.runtime import start_accelerator
from prologue.core.sharing import own_tasks
from prologue.core.systems import trains_stage2
from prologue.core.work import building, earlier_sessions, origin_of
from prologue.data.images import MANIFEST, ImageShards
from prologue.data.loader import Batch, view_batches
from prologue.data.transforms import CROPS
from prologue.models.saved import load_tokenizer
from prologue.models.tokenizer import Tokenizer
from prologue.tokens.cache import ids_path


def write_tokens(params: Params, tokenizer_folder: Path, shards: Path, output: Path) -> dict[str, Any]:
    """Encode every image of the shards: training images in all views of `tokens.crops`, validation images centred.

    Where no AR model is to be trained on them, training images are left out. Every process encodes its own shards; a
    run that was killed goes on with those that are missing. Returns the metrics of the stage.
    """
    accelerator = start_accelerator()
    tokenizer = load_tokenizer(tokenizer_folder, accelerator.device)
    inputs = [shards / MANIFEST, *sorted(tokenizer_folder.glob("*.*"))]
    schemes = {"train": params.tokens.crops, "val": "center"}
    if not trains_stage2(params):
        del schemes["train"]
    origin = origin_of({"views": schemes, "image_size": params.data.image_size}, inputs, __file__)
    counts: dict[str, Any] = {}
    with building(output, origin, accelerator.wait_for_everyone) as folder:
        for split, scheme in schemes.items():
            images = ImageShards(shards, split)
            (folder / split).mkdir(exist_ok=True)
            shard_numbers = range(len(images.shard_sizes))
            own = own_tasks(shard_numbers, accelerator.process_index, accelerator.num_processes)
            missing = [shard for shard in own if not ids_path(folder, split, shard).is_file()]
            for shard in progress(missing, f"tokens {split}", "shard"):
                _write_shard(folder, tokenizer, images, split, shard, scheme, params.tokens.batch)
            counts[split] = {"images": len(images), "views": CROPS[scheme]}
        if accelerator.is_main_process:
            vocabulary = tokenizer.vocabulary(len(images.classes)).model_dump()
            manifest = {"classes": images.class_names, "counts": counts, "vocabulary": vocabulary}
            write_json(folder / "manifest.json", manifest)
        earlier = earlier_sessions(folder)
    return counts | earlier


def _write_shard(
    folder: Path, tokenizer: Tokenizer, images: ImageShards, split: str, shard: int, scheme: str, batch: int
) -> None:
    """Encode one image shard; its ids appear last and whole, so that they say that it is done."""
    start = sum(images.shard_sizes[:shard])
    indices = np.arange(start, start + images.shard_sizes[shard])
    at_once = max(1, batch // CROPS[scheme])
    batches = view_batches(images, tokenizer.config.image_size, scheme, indices, at_once)
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
