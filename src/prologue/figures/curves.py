"""Training curves as inline SVG: one small chart for each quantity, training and validation on the same axes."""

import html
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from prologue.figures.style import BLUE, NO_METADATA, ORANGE, styled

Points = dict[int, float]  # step -> value

SPLITS = {"train": "train", "val": "validation"}
COLOURS = {"train": BLUE, "validation": ORANGE}
DVCLIVE_FOLDERS = {"plots", "metrics"}
LOG_RATIO = 30  # a positive quantity that spans more than this factor gets a logarithmic axis


def training_curves(folder: Path, name: str) -> str | None:
    """Inline SVG charts, one after the other, of every DVCLive TSV below `folder`; None if it holds no points.

    Ids in the SVG start with the training's name, so that charts of several can stand in one page.
    """
    quantities = read_curves(folder)
    if not quantities:
        return None
    ordered = sorted(quantities, key=lambda own: (own != "loss", "validation" not in quantities[own], own))
    return "\n".join(_chart(name, quantity, quantities[quantity]) for quantity in ordered)


def read_curves(folder: Path) -> dict[str, dict[str, Points]]:
    """Points of every TSV below `folder`, as quantity -> split ('train', 'validation' or '') -> step -> value.

    A step that was logged twice (a resumed run) keeps its last value; values that are not finite are left out.
    """
    quantities: dict[str, dict[str, Points]] = {}
    for path in sorted(folder.rglob("*.tsv")):
        parts = [part for part in path.relative_to(folder).with_suffix("").parts if part not in DVCLIVE_FOLDERS]
        split = next((SPLITS[part] for part in parts if part in SPLITS), "")
        quantity = " ".join(part for part in parts if part not in SPLITS).replace("_", " ")
        points = _read_points(path)
        if points:
            quantities.setdefault(quantity, {})[split] = points
    return quantities


def _read_points(path: Path) -> Points:
    rows = pd.read_csv(path, sep="\t").drop_duplicates("step", keep="last").set_index("step").sort_index()
    values = rows.iloc[:, -1]
    return {int(step): float(value) for step, value in values[np.isfinite(values)].items()}


def _chart(stage: str, quantity: str, splits: dict[str, Points]) -> str:
    with styled():
        figure = Figure(figsize=(3.6, 2.5), layout="constrained")
        axes = figure.add_subplot()
        for split, points in sorted(splits.items()):
            _draw(axes, split, points)
        values = [value for points in splits.values() for value in points.values()]
        if min(values) > 0 and max(values) > LOG_RATIO * min(values):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_title(quantity)
        axes.set_xlabel("step")
        axes.legend(fontsize=9)
        return _inline_svg(figure, f"{stage}-{quantity}", _description(stage, quantity, splits))


def _draw(axes: Axes, split: str, points: Points) -> None:
    steps, values = list(points), list(points.values())
    # Validations are few: markers show where they were made.
    marker = "o" if split == "validation" or len(steps) == 1 else None
    label = f"{split} {values[-1]:.4g}".strip()
    axes.plot(steps, values, color=COLOURS.get(split, BLUE), marker=marker, markersize=3.5, label=label)


def _description(stage: str, quantity: str, splits: dict[str, Points]) -> str:
    """The chart in words, for readers who cannot see it."""
    parts = []
    for split, points in sorted(splits.items()):
        steps = list(points)
        parts.append(f"{split} from {points[steps[0]]:.4g} to {points[steps[-1]]:.4g} at step {steps[-1]}".strip())
    return f"{stage}, {quantity}: " + "; ".join(parts)


def _inline_svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an <svg> element whose ids are its own and which is the same for the same data."""
    prefix = re.sub(r"\W+", "-", name)
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=NO_METADATA["svg"])
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", text)
    text = text.replace("*{", f"#{prefix} *{{")  # matplotlib's style sheet would reach the whole page
    return text.replace("<svg ", f'<svg id="{prefix}" role="img" aria-label="{html.escape(description)}" ', 1)
