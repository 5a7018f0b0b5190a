"""Images drawn from an AR model and the tokenizer that decodes its ids, block by block into one file."""

from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from prologue.core.launch import progress
from prologue.core.params import GuidedRunParams, PlainRunParams, SamplingParams
from prologue.core.sharing import own_tasks
from prologue.models.ar import ARModel
from prologue.models.tokenizer import Tokenizer, to_uint8
from prologue.sampling.choice import Choice, Choices
from prologue.sampling.generation import Seed, TokenSampler
from prologue.sampling.guidance import Guidance
from prologue.sampling.watermark import Watermark

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
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
    """Images uint8 (B, H, W, 3) of visual ids (B, Nv)."""
    images: Pixels = to_uint8(tokenizer.decode(visual)).permute(0, 2, 3, 1).cpu().numpy()
    return images


def sample_images(
    sampler: TokenSampler,
    tokenizer: Tokenizer,
    labels: NDArray[np.int64],
    seed: Seed,
    path: Path,
    accelerator: Accelerator,
) -> NDArray[np.uint8]:
    """Draw one image per label (N,), image i of the seed (*seed, i), into the file `path`; returns its memory map.

    Processes take turns with the blocks. Blocks that a killed run had drawn are found again.
    """
    size, block = tokenizer.config.image_size, sampler.block
    blocks = -(-len(labels) // block)
    done_path = path.with_suffix(".done.npy")
    if accelerator.is_main_process and not done_path.is_file():
        np.lib.format.open_memmap(path, "w+", np.uint8, (len(labels), size, size, 3)).flush()
        np.save(done_path, np.zeros(blocks, np.bool_))
    accelerator.wait_for_everyone()
    images, done = np.load(path, mmap_mode="r+"), np.load(done_path, mmap_mode="r+")
    mine = own_tasks(range(blocks), accelerator.process_index, accelerator.num_processes)
    own = [place for place in mine if not done[place]]
    for place in progress(own, path.stem, "block"):
        indices = np.arange(place * block, min((place + 1) * block, len(labels)))
        classes = torch.from_numpy(labels[indices]).to(accelerator.device)
        seeds: list[Seed] = [(*seed, int(index)) for index in indices]
        images[indices] = decode(tokenizer, sampler.sample(classes, seeds).visual)
        images.flush()
        done[place] = True
        done.flush()
    accelerator.wait_for_everyone()
    return images
