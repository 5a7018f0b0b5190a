"""Charts of a watermark: how p-values of images without it lie, and how many images with it are found."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from prologue.figures.style import BLUE, INK, ORANGE, look, save, styled


def draw_watermark(found: dict[str, Any], path: Path) -> None:
    """Draw what `measure_watermark` found as PATH.svg and PATH.png.

    Left the share of images without a mark up to each p-value, with the range over keys, where the diagonal is what
    p-values promise at most; right the share of marked images that are found, by damage.
    """
    with styled():
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        unmarked, marked = figure.subplots(1, 2)
        for (name, shares), colour in zip(found["false_positives"].items(), (BLUE, ORANGE), strict=True):
            levels = [float(level) for level in shares["levels"]]
            mean, least, most = ([own[key] for own in shares["levels"].values()] for key in ("mean", "least", "most"))
            label = f"{name}, mean and range of {found['keys']} keys"
            reach = np.abs(np.array([least, most]) - mean)  # down to 0 leaves a logarithmic axis
            unmarked.errorbar(levels, mean, reach, fmt="o-", color=colour, capsize=2, label=label)
        unmarked.plot(levels, levels, "--", color=INK, linewidth=1, label="as many as the p-value says")
        unmarked.set(xscale="log", yscale="log", xlabel="p-value", ylabel="share of images up to it")
        unmarked.set_title("Images without a mark")
        figure.legend(*unmarked.get_legend_handles_labels(), fontsize=8, loc="outside lower left", ncols=3)
        damages = list(next(iter(found["detection"].values())))
        for number, (strength, shares) in enumerate(found["detection"].items()):
            values = [shares[damage]["found"] for damage in damages]
            errors = [
                [own["found"] - own["low"] for own in shares.values()],
                [own["high"] - own["found"] for own in shares.values()],
            ]
            place, label = range(len(damages)), f"strength {strength}"
            marked.errorbar(values, place, xerr=errors, linestyle="none", capsize=2, label=label, **look(number))
        marked.set_yticks(range(len(damages)), damages)
        marked.invert_yaxis()
        marked.set(xlim=(0, 1), xlabel=f"share of images found, p up to {found['level']:g}")
        marked.set_title("Images with a mark, damaged")
        marked.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        save(figure, path)
