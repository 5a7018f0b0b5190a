"""Chart of how codebooks are used."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from prologue.figures.style import BLUE, MUTED, ORANGE, save, styled


def draw_code_usage(counts: dict[str, Tensor], path: Path) -> None:
    """How often each code is used, relative to all being used alike, most used first; all codebooks in one chart."""
    with styled():
        figure = Figure(figsize=(7, 3.6), layout="constrained")
        axes = figure.add_subplot()
        for (codebook, counted), colour, line in zip(counts.items(), (BLUE, ORANGE), ("-", "--"), strict=False):
            sizes = (counted.sort(descending=True).values / counted.double().mean()).numpy()
            used = int((counted > 0).sum())
            place = 100 * np.arange(1, len(sizes) + 1) / len(sizes)
            axes.plot(
                place[:used], sizes[:used], line, color=colour, label=f"{codebook}: {used} of {len(sizes)} codes in use"
            )
        axes.axhline(1, color=MUTED, linewidth=0.8, linestyle=":", label="all codes used alike")
        axes.set(xlim=(0, 100), yscale="log", xlabel="codes, most used first, % of the codebook")
        axes.set(ylabel="times the mean frequency", title="How often each code is used")
        axes.legend()
        save(figure, path)
