"""The samples stage: class-balanced images with and without guidance, and rows that hold a prologue fixed."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from prologue.figures.grids import image_grid
from prologue.files import read_json, replacing
from prologue.launch import progress
from prologue.models.ar import ARModel
from prologue.models.export import load_ar, load_tokenizer
from prologue.models.tokenizer import Tokenizer, Tokens, to_uint8
from prologue.params import Params
from prologue.runtime import replacing_together, start_accelerator
from prologue.sampling import Guidance, Temperatures, generate

COLUMNS = 10
MAX_ROWS = 20  # classes in a figure


def write_samples(
    params: Params, ar_folder: Path, tokenizer_folder: Path, tokens: Path, output: Path, figures: Path
) -> dict[str, Any]:
    """Sample `sampling.images` images with guidance (cfg.npz) and without (no_cfg.npz), in the ADM layout.

    Classes are balanced: image i has class i mod classes. Every process samples its share. Returns the metrics.
    """
    accelerator = start_accelerator()
    sampler = Sampler(params, load_ar(ar_folder), load_tokenizer(tokenizer_folder), accelerator)
    classes = read_json(tokens / "manifest.json")["classes"]
    labels = np.arange(params.sampling.images) % len(classes)
    speed = {}
    with replacing_together(output, accelerator) as folder:
        for run in ("cfg", "no_cfg"):
            began = time.perf_counter()
            sampler.write_run(folder, run, labels)
            speed[run] = round(len(labels) / (time.perf_counter() - began), 1)
    if accelerator.is_main_process:
        with replacing(figures) as pictures:
            pictures.mkdir()
            for run in ("cfg", "no_cfg"):
                images = np.load(output / f"{run}.npz")["arr_0"]
                class_grid(images, labels, classes).save(pictures / f"samples_{run}.png")
            if sampler.ar.vocabulary.prologue_tokens:
                rows = min(params.sampling.fixed_prologues, len(classes))
                names = [*classes[:rows], f"{classes[rows - 1]}, free"]
                image_grid(sampler.fixed_prologue_rows(rows), COLUMNS, names).save(pictures / "fixed_prologue.png")
    return {"images": params.sampling.images, "images_per_second": speed}


def class_grid(images: NDArray[np.uint8], labels: NDArray[np.int64], classes: list[str]) -> Any:
    """Uncurated grid: the first images of each of the first classes, a labelled row each."""
    rows = [images[labels == label][:COLUMNS] for label in range(min(len(classes), MAX_ROWS))]
    columns = min(map(len, rows))
    return image_grid(np.concatenate([row[:columns] for row in rows]), columns, classes[: len(rows)])


class Sampler:
    """Draws images from an AR model and the tokenizer that decodes its ids; image i has its own seed."""

    def __init__(self, params: Params, ar: ARModel, tokenizer: Tokenizer, accelerator: Accelerator) -> None:
        self.seed, self.settings = params.seed, params.sampling
        self.accelerator = accelerator
        self.ar, self.tokenizer = ar.to(accelerator.device), tokenizer.to(accelerator.device)
        settings = self.settings
        self.runs: dict[str, tuple[Guidance | None, Temperatures]] = {
            "cfg": (
                Guidance(settings.prologue_guidance, settings.visual_guidance, settings.visual_guidance_power),
                Temperatures(),
            ),
            "no_cfg": (None, Temperatures(settings.prologue_temperature, settings.visual_temperature)),
        }

    def write_run(self, folder: Path, run: str, labels: NDArray[np.int64]) -> None:
        """Sample one image per label (N,) and write RUN.npz: arr_0 uint8 (N, H, W, 3), labels int64 (N,)."""
        size = self.tokenizer.config.image_size
        path = folder / f"{run}.npy"
        if self.accelerator.is_main_process:
            np.lib.format.open_memmap(path, "w+", np.uint8, (len(labels), size, size, 3)).flush()
        self.accelerator.wait_for_everyone()
        images = np.load(path, mmap_mode="r+")
        own = np.array_split(np.arange(len(labels)), self.accelerator.num_processes)[self.accelerator.process_index]
        batch = max(1, self.settings.batch // self.accelerator.num_processes)
        for start in progress(range(0, len(own), batch), f"samples {run}", "batch"):
            indices = own[start : start + batch]
            tokens = self.draw(run, labels[indices], [(self.seed, int(index)) for index in indices])
            images[indices] = self.decode(tokens)
        images.flush()
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            np.savez(folder / f"{run}.npz", arr_0=images, labels=labels)
            path.unlink()

    def draw(
        self,
        run: str,
        labels: NDArray[np.int64],
        seeds: Sequence[tuple[int, ...]],
        prologue: torch.Tensor | None = None,
    ) -> Tokens:
        """Tokens of one image per label (N,), with the settings of a run."""
        guidance, temperatures = self.runs[run]
        classes = torch.from_numpy(labels).to(self.accelerator.device)
        return generate(self.ar, classes, guidance, temperatures, seeds, prologue)

    def decode(self, tokens: Tokens) -> NDArray[np.uint8]:
        """Images uint8 (N, H, W, 3) of tokens."""
        images: NDArray[np.uint8] = to_uint8(self.tokenizer.decode(tokens.visual)).permute(0, 2, 3, 1).cpu().numpy()
        return images

    def fixed_prologue_rows(self, rows: int) -> NDArray[np.uint8]:
        """Fig. 1: rows of images whose prologue is held while the visual tokens are drawn anew; the last row is free.

        Row r has class r, the free row the last one. Returns uint8 ((rows + 1) * COLUMNS, H, W, 3).
        """
        labels = np.arange(rows)
        held = self.draw("cfg", labels, [(self.seed, row) for row in range(rows)]).prologue
        assert held is not None
        seeds = [(self.seed, row, column) for row in range(rows + 1) for column in range(COLUMNS)]
        fixed, free = seeds[: rows * COLUMNS], seeds[rows * COLUMNS :]
        resampled = self.draw("cfg", labels.repeat(COLUMNS), fixed, held.repeat_interleave(COLUMNS, dim=0))
        drawn_freely = self.draw("cfg", np.full(COLUMNS, rows - 1), free)
        return np.concatenate([self.decode(resampled), self.decode(drawn_freely)])
