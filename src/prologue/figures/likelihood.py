"""Chart of what each token costs an AR model."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from prologue.figures.style import BLUE, MUTED, ORANGE, save, styled


def draw_positions(table: pd.DataFrame, path: Path) -> None:
    """Chart of `per_position`: what each token costs and how unsure the model is of it, with the prologue marked."""
    with styled():
        figure = Figure(figsize=(7, 3.4), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(table["position"], table["loss"], color=BLUE, label="loss of the token")
        axes.plot(table["position"], table["entropy"], "--", color=ORANGE, label="entropy of the prediction")
        visual = table.loc[table["segment"] == "visual", "position"].min()
        if visual:
            axes.axvspan(-0.5, visual - 0.5, color=MUTED, alpha=0.12, linewidth=0, label="prologue and EOS")
        axes.set(xlabel="position in the sequence", ylabel="nats", xlim=(-0.5, len(table) - 0.5), ylim=(0, None))
        axes.set_title("What each token costs, given all before it")
        axes.legend()
        save(figure, path)
