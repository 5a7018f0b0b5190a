"""Chart of generation over a sampling setting (Fig. A1)."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from prologue.figures.style import BLUE, ORANGE, save, styled


def draw_sweep(table: pd.DataFrame, distance: str, score: str, path: Path) -> None:
    """Two curves over the first column of a table, whose best points are marked: the distance and the score."""
    axis = table.columns[0]
    values = table[axis].to_numpy()
    with styled():
        figure = Figure(figsize=(7, 3), layout="constrained")
        panels = figure.subplots(1, 2)
        for panel, column, colour, find_best in (
            (panels[0], distance, BLUE, np.argmin),
            (panels[1], score, ORANGE, np.argmax),
        ):
            measured = table[column].to_numpy()
            best = int(find_best(measured))
            panel.plot(values, measured, "o-", color=colour)
            panel.plot(values[best], measured[best], "o", color=colour, markersize=10, fillstyle="none")
            panel.set(xlabel=axis, ylabel=column, title=f"best {measured[best]:.4g} at {values[best]:g}")
        save(figure, path)
