"""One look for every chart: the Agg backend, colour-blind-safe colours, readable text, reproducible SVG."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib.figure import Figure

from prologue.core.files import replacing

matplotlib.use("agg")

# Okabe and Ito's palette, which stays apart under every common colour blindness.
BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
INK, MUTED, LINE = "#1d2329", "#5a6470", "#dfe3e8"
MARKERS = "osD^vPX*"  # a shape of its own for each line, beside its colour

NO_METADATA: dict[str, dict[str, None]] = {
    "svg": dict.fromkeys(("Creator", "Date", "Format", "Type")),
    "png": {"Software": None},
}

STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#9aa4af",
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.prop_cycle": cycler(color=[BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER]),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "figure.dpi": 150,
    "figure.facecolor": "white",
    "font.size": 10,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "savefig.facecolor": "white",
    "svg.fonttype": "none",
    "svg.hashsalt": "prologue",
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


def styled() -> AbstractContextManager[None]:
    """Context in which figures are made and saved in the project's style; matplotlib's settings return after it."""
    return matplotlib.rc_context(STYLE)


def look(number: int) -> dict[str, Any]:
    """Marker and colour of a line, or of a row."""
    return {"marker": MARKERS[number % len(MARKERS)], "color": f"C{number % 6}"}


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PATH.svg and PATH.png, the same bytes for the same figure: without dates and versions."""
    for kind, metadata in NO_METADATA.items():
        with replacing(path.with_suffix(f".{kind}")) as temporary:
            figure.savefig(temporary, format=kind, metadata=metadata)
