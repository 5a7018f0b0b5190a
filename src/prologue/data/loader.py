"""Batches of images whose content depends on the step alone: any start resumes, any number of processes agrees."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from prologue.core.errors import PrologueError
from prologue.core.runtime import loader_workers
from prologue.core.seeds import Stream
from prologue.core.sharing import own_rows
from prologue.data.images import ImageShards
from prologue.data.order import epoch_indices
from prologue.data.transforms import Cropper, Pixels, crop_views
from prologue.data.workers import end_with_parent, without_script, worker_context

Batch = tuple[torch.Tensor, torch.Tensor]


def training_batches(
    shards: ImageShards,
    crop: Cropper,
    seed: int,
    batch: int,
    start: int,
    stop: int,
    rank: int,
    processes: int,
    piece: int | None = None,
) -> Iterator[Batch]:
    """This process's rows of the global batches of the steps from `start` to before `stop`, each in pieces if asked to.

    `epoch_indices` says which images a step holds; how `crop` cuts one depends on the seed, its epoch and its index.

    Yields:
        images uint8 (b, 3, size, size) as `crop` makes them, and labels int64 (b,): b is batch / processes, or up to
        `piece`, so that workers queue pieces of a batch that is gigabytes.

    Raises:
        PrologueError: the batch cannot be divided over the processes.
    """
    own, size = own_rows(batch, rank, processes), piece or batch
    pieces = [slice(first, min(first + size, own.stop)) for first in range(own.start, own.stop, size)]
    keys = range(start * len(pieces), stop * len(pieces))
    return _load(_TrainingSteps(shards, crop, seed, batch, pieces), keys)


def view_batches(
    shards: ImageShards, size: int, scheme: str, indices: Sequence[int] | NDArray[np.int64], batch: int
) -> Iterator[Batch]:
    """All views (see `crop_views`) of the images at `indices`, in their order, `batch` images at a time.

    Yields:
        images uint8 (b, views, 3, size, size) and the images' indices int64 (b,); the last batch may be smaller.
    """
    indices = np.asarray(indices, dtype=np.int64)
    return _load(_ViewBatches(shards, size, scheme, indices, batch), range(0, len(indices), batch))


def _load(dataset: Dataset[Batch], keys: range) -> Iterator[Batch]:
    workers = loader_workers()
    loader = DataLoader(
        _Told(dataset),
        batch_size=None,  # an item of the dataset is a whole batch
        sampler=keys,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else each loader advances the global one, and a resumed run differs
        multiprocessing_context=worker_context() if workers else None,
        worker_init_fn=end_with_parent,
    )
    with without_script():
        batches = iter(loader)
    for batch in batches:
        if isinstance(batch, PrologueError):
            raise batch
        yield tuple(batch)


class _Told(Dataset[Batch | PrologueError]):
    """A dataset whose errors meant for the user are items: a worker's own come with a traceback in their text."""

    def __init__(self, dataset: Dataset[Batch]) -> None:
        self._dataset = dataset

    def __getitem__(self, key: int) -> Batch | PrologueError:
        try:
            return self._dataset[key]
        except PrologueError as error:
            return error


class _TrainingSteps(Dataset[Batch]):
    """The rows of one process in the batch of each step, in pieces: those of step 0, of step 1, ..."""

    def __init__(self, shards: ImageShards, crop: Cropper, seed: int, batch: int, pieces: list[slice]) -> None:
        self._shards, self._crop, self._seed, self._batch, self._pieces = shards, crop, seed, batch, pieces

    def __getitem__(self, key: int) -> Batch:
        step, number = divmod(key, len(self._pieces))
        rows = self._pieces[number]
        epochs, indices = epoch_indices(len(self._shards), self._seed, self._batch, step)
        own = indices[rows]
        crops = [self._view(int(epoch), int(index)) for epoch, index in zip(epochs[rows], own, strict=True)]
        return torch.stack(crops), torch.from_numpy(self._shards.labels[own])

    def _view(self, epoch: int, index: int) -> torch.Tensor:
        return self._crop(
            self._shards.read(index), rng=np.random.default_rng((Stream.AUGMENTATION, self._seed, epoch, index))
        )


class _ViewBatches(Dataset[Batch]):
    """The views of each run of `batch` indices, by the run's start."""

    def __init__(self, shards: ImageShards, size: int, scheme: str, indices: NDArray[np.int64], batch: int) -> None:
        self._shards, self._size, self._scheme, self._indices, self._batch = shards, size, scheme, indices, batch

    def __getitem__(self, start: int) -> Batch:
        indices = self._indices[start : start + self._batch]
        views = [crop_views(self._shards.image(int(index)), self._size, self._scheme) for index in indices]
        return _channels_first(views), torch.from_numpy(indices)


def _channels_first(pixels: list[Pixels]) -> torch.Tensor:
    """uint8 images (..., H, W, 3) as one tensor (N, ..., 3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.stack(pixels), -1, -3)))
