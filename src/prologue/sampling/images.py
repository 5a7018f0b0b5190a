"""Images drawn from an AR model and the tokenizer that decodes its ids, block by block into one file."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from prologue.core.errors import PrologueError
from prologue.core.launch import progress
from prologue.core.params import GuidedRunParams, PlainRunParams, SamplingParams
from prologue.core.sharing import gather_number, own_tasks
from prologue.models.ar import ARModel
from prologue.models.tokenizer import Tokenizer, to_uint8
from prologue.sampling.choice import Choice, Choices
from prologue.sampling.generation import Seed, TokenSampler
from prologue.sampling.guidance import Guidance
from prologue.sampling.watermark import Watermark

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PART = 64  # images that are decoded at once: at 256 px a convolutional decoder takes 0.17 GB for each
Pixels = NDArray[np.uint8]


def token_samplers(ar: ARModel, params: SamplingParams, watermark: Watermark | None = None) -> dict[str, TokenSampler]:
    """The samplers of both runs, as the params set them."""
    dtype = DTYPES[params.precision]
    return {
        "cfg": TokenSampler(ar, guidance_of(params.cfg), choices_of(params.cfg), dtype, watermark),
        "no_cfg": TokenSampler(ar, None, choices_of(params.no_cfg), dtype, watermark),
    }


def guidance_of(run: GuidedRunParams) -> Guidance:
    """The guidance of both segments."""
    return Guidance(
        prologue=run.prologue.guidance,
        visual=run.visual.guidance,
        power=run.visual.power,
        schedule=run.visual.schedule,
        prologue_power=run.prologue.power,
        prologue_schedule=run.prologue.schedule,
    )


def choices_of(run: GuidedRunParams | PlainRunParams) -> Choices:
    """How ids of both segments are chosen."""
    segments = (run.prologue, run.visual)
    return Choices(*(Choice(segment.temperature, segment.top_k, segment.top_p) for segment in segments))


def decode(tokenizer: Tokenizer, visual: Tensor) -> Pixels:
    """Images uint8 (B, H, W, 3) of visual ids (B, Nv), decoded in parts that every tokenizer has memory for."""
    parts = [to_uint8(tokenizer.decode(part)).cpu() for part in visual.split(PART)]
    images: Pixels = torch.cat(parts).permute(0, 2, 3, 1).numpy()
    return images


def sample_images(
    sampler: TokenSampler,
    tokenizer: Tokenizer,
    labels: NDArray[np.int64],
    seed: Seed,
    path: Path,
    accelerator: Accelerator,
) -> tuple[NDArray[np.uint8], int]:
    """Draw one image per label (N,), image i of the seed (*seed, i), into the file `path`.

    Processes take turns with the blocks. Images that a killed run had drawn are found again, whatever its blocks were.
    Returns the file's memory map, and how many images this run had to draw.

    Raises PrologueError where images are missing when all have drawn.
    """
    size = tokenizer.config.image_size
    block = min(gather_number(sampler.block, accelerator))  # all must cut alike, and their GPUs may have unlike memory
    done_path = path.with_suffix(".done.npy")
    if accelerator.is_main_process and not done_path.is_file():
        np.lib.format.open_memmap(path, "w+", np.uint8, (len(labels), size, size, 3)).flush()
        np.save(done_path, np.zeros(len(labels), np.bool_))
    accelerator.wait_for_everyone()
    done = np.load(done_path)
    accelerator.wait_for_everyone()  # all have read the same
    starts = [start for start in range(0, len(labels), block) if not done[start : start + block].all()]
    own = own_tasks(starts, accelerator.process_index, accelerator.num_processes)
    for start in progress(own, path.stem, "block"):
        indices = range(start, min(start + block, len(labels)))
        classes = torch.from_numpy(labels[start : indices.stop]).to(accelerator.device)
        seeds: list[Seed] = [(*seed, index) for index in indices]
        _write_rows(path, start, decode(tokenizer, sampler.sample(classes, seeds).visual))
        _write_rows(done_path, start, np.ones(len(indices), np.bool_))
    accelerator.wait_for_everyone()
    if missing := int((~np.load(done_path)).sum()):
        raise PrologueError(f"{missing} of the {len(labels)} images of {path} were not drawn; run it again")
    return np.load(path, mmap_mode="r"), sum(min(block, len(labels) - start) for start in starts)


def _write_rows(path: Path, start: int, rows: NDArray[Any]) -> None:
    """Write rows to their place in an npy file, and nothing beside them: other nodes write the rows around them."""
    offset = np.load(path, mmap_mode="r").offset + start * rows[0].nbytes
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(rows.tobytes())
        file.flush()
        os.fsync(file.fileno())
