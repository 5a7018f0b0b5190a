"""Figures of what an AR model attends to: maps and shares by layer, and where in an image each prologue token is read.

Maps are NumPy arrays of attention weights, mean over heads: row t holds what position t, which predicts token t of
prologue [EOS] visual, takes of each input of [class] prologue [EOS] visual.
"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter
from matplotlib.transforms import Transform
from numpy.typing import NDArray

from prologue.figures.style import AMBER, BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, save, styled
from prologue.models.vocabulary import Vocabulary

Maps = NDArray[np.floating]

SHOWN_LAYERS = 4
SHOWN_TOKENS = 16
WEAKEST = 1e-4  # end of the colours; the same for every model, so that figures compare
COLOUR_MAP = "viridis"  # perceptually uniform, and in order under every colour blindness
BAND, EDGE = 0.025, -0.037  # width and place of the bands beside the axes, in shares of an axis
HEAT = 0.65  # opacity over an image
VISUAL = ("#aab4be", "#dde2e7")  # rows of visual tokens take turns
PARTS = {  # label, colour and marker of each part of the sequence
    "class": ("class", INK, "s"),
    "prologue": ("prologue", ORANGE, "o"),
    "eos": ("EOS", PURPLE, "D"),
    "left": ("left neighbour", BLUE, "<"),
    "upper": ("upper neighbour", GREEN, "^"),
    "previous": ("previous token", BLUE, "<"),
    "other": ("other visual", AMBER, "v"),
}


def draw_attention_maps(path: Path, maps: Maps, vocabulary: Vocabulary, width: int | None) -> None:
    """Maps (layers, T, T) of up to four evenly spaced layers, side by side, as PATH.svg and PATH.png (Fig. 6, A2).

    Bands along the axes mark class, prologue, EOS and, in a grid of `width` tokens a row, the rows of the image.
    """
    layers = np.unique(np.linspace(0, len(maps) - 1, min(len(maps), SHOWN_LAYERS)).round().astype(int))
    columns, rows = min(len(layers), 2), -(-len(layers) // 2)
    causal = np.tri(maps.shape[1], dtype=bool)
    with styled():
        # more than a pixel for each of 273 positions
        figure = Figure(figsize=(7.5, 6.9 / columns * rows + 0.8), dpi=200, layout="constrained")
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, layer in zip(panels, layers, strict=False):
            colours = LogNorm(WEAKEST, 1)
            picture = axes.imshow(np.where(causal, maps[layer], np.nan), COLOUR_MAP, colours, interpolation="none")
            axes.set_title(f"layer {layer + 1} of {len(maps)}")
            _mark_segments(axes, vocabulary, width)
        for axes in panels[len(layers) :]:
            axes.remove()
        figure.colorbar(picture, ax=figure.axes, extend="min", shrink=0.6, aspect=40, label="attention weight")
        _segment_legend(figure, vocabulary, width)
        save(figure, path)


def _mark_segments(axes: Axes, vocabulary: Vocabulary, width: int | None) -> None:
    """Bands of the segments along both axes, and ticks at some image rows (without a grid, at some visual tokens)."""
    tokens, prefix, length = vocabulary.prologue_tokens, vocabulary.prefix, vocabulary.length
    stride = width or vocabulary.visual_tokens
    starts = range(prefix, length, stride)
    predicted = [(0, tokens, ORANGE), (tokens, prefix, PURPLE)]
    predicted += [(start, start + stride, VISUAL[row % 2]) for row, start in enumerate(starts)]
    for start, stop, colour in predicted:
        axes.add_patch(_band((EDGE, start - 0.5), BAND, stop - start, colour, axes.get_yaxis_transform()))
    inputs = [(start + 1, min(stop + 1, length), colour) for start, stop, colour in predicted]
    for start, stop, colour in [(0, 1, INK), *inputs]:
        axes.add_patch(_band((start - 0.5, EDGE), stop - start, BAND, colour, axes.get_xaxis_transform()))

    middles = np.array(starts) + (stride - 1) / 2 if width else np.arange(prefix, length)
    numbers = np.arange(0, len(middles), -(-len(middles) // (8 if width else 4)))
    unit = "image row" if width else "visual token"
    axes.set_yticks(middles[numbers], numbers + 1)
    axes.set_xticks(middles[numbers] + 1, numbers + 1)
    axes.set(xlabel=f"input, by {unit}", ylabel=f"predicted, by {unit}")
    axes.tick_params(length=0, pad=7, labelsize=8)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _band(corner: tuple[float, float], width: float, height: float, colour: str, transform: Transform) -> Rectangle:
    return Rectangle(corner, width, height, facecolor=colour, linewidth=0, transform=transform, clip_on=False)


def _segment_legend(figure: Figure, vocabulary: Vocabulary, width: int | None) -> None:
    colours = {"class": INK}
    if vocabulary.prologue_tokens:
        colours |= {"prologue": ORANGE, "EOS": PURPLE}
    colours |= {"visual, row by row": VISUAL[0]} if width else {"visual": VISUAL[0]}
    handles = [Patch(color=colour, label=label) for label, colour in colours.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def draw_attention_shares(path: Path, shares: dict[str, list[float]], uniform: dict[str, list[float]]) -> None:
    """Line chart of the share of attention that each part gets, by layer, as PATH.svg and PATH.png (Sec. 4.2).

    Hollow markers right of the last layer are the shares of `uniform` (one layer), for comparison.
    """
    layers = len(next(iter(shares.values())))
    with styled():
        figure = Figure(figsize=(7, 3.8), layout="constrained")
        axes = figure.add_subplot()
        aside = layers + max(0.6, layers / 6)
        for part, share in shares.items():
            label, colour, marker = PARTS[part]
            axes.plot(range(1, layers + 1), share, color=colour, marker=marker, markersize=5, label=label)
            axes.plot(aside, uniform[part][0], marker, color=colour, markersize=6, fillstyle="none")
        ticks = [int(tick) for tick in MaxNLocator(8, integer=True).tick_values(1, layers) if 1 <= tick <= layers]
        axes.set_xticks([*ticks, aside], [*map(str, ticks), "uniform"])
        axes.axvline((layers + aside) / 2, color=MUTED, linewidth=0.8, linestyle=":")
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set(ylim=(0, None), xlabel="layer", ylabel="share of attention")
        axes.set_title("What positions that predict visual tokens attend to")
        figure.legend(loc="outside right center")
        save(figure, path)


def draw_prologue_attention(path: Path, images: NDArray[np.uint8], own: Maps, mean: Maps, averaged: int) -> None:
    """Where in images prologue tokens are read, up to 16 of them, as PATH.svg and PATH.png (Fig. 7, A4).

    Args:
        images: (N, H, W, 3), a row each.
        own: attention of each cell to each token (N, Np, rows, columns), drawn over the image in grey.
        mean: the same over `averaged` images, (Np, rows, columns), the last row.
    """
    heat = np.concatenate((own, mean[None]))[:, :SHOWN_TOKENS]
    largest = np.percentile(heat, 99, axis=(0, 2, 3))  # the first positions see few inputs, so their weights stick out
    scales = [Normalize(0, weight) for weight in largest]
    rows, columns = len(heat), len(scales) + 1
    side = max(0.55, 7 / columns)
    with styled():
        figure = Figure(figsize=(side * columns, side * rows + 0.9), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False)
        for axes in panels.flat:
            axes.axis("off")
        for axes, title in zip(panels[0], ["token", *range(1, columns)], strict=True):
            axes.set_title(str(title), fontsize=9, loc="center", fontweight="normal")
        for line, image, maps in zip(panels, images, own, strict=False):
            line[0].imshow(image)
            for axes, cells, scale in zip(line[1:], maps, scales, strict=False):
                axes.imshow(
                    image.mean(axis=-1), "gray", vmin=-128, vmax=383
                )  # pale, so that colours stay what they are
                axes.imshow(cells, COLOUR_MAP, scale, interpolation="none", alpha=HEAT, extent=_edges(image))
        text = f"mean of\n{averaged}\nimages"
        panels[-1, 0].text(0.5, 0.5, text, transform=panels[-1, 0].transAxes, ha="center", va="center", fontsize=8)
        for axes, cells, scale in zip(panels[-1, 1:], mean, scales, strict=False):
            axes.imshow(cells, COLOUR_MAP, scale, interpolation="none")
        colours = ScalarMappable(Normalize(0, 1), COLOUR_MAP)
        bar = figure.colorbar(colours, ax=panels, location="bottom", shrink=0.5, aspect=40, extend="max")
        bar.set_ticks([0, 1], labels=["0", "its 99th percentile"])
        bar.set_label("attention to the prologue token, each token on its own scale")
        save(figure, path)


def _edges(image: NDArray[np.uint8]) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of a picture in matplotlib's pixels, whose centres are whole numbers."""
    height, width = image.shape[:2]
    return -0.5, width - 0.5, height - 0.5, -0.5
