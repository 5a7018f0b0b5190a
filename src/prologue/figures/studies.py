"""Figures of studies: bars by row, lines over a param, guidance sweeps of several systems in one chart."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prologue.figures.style import BLUE, save, styled

MARKERS = "osD^vPX*"  # a shape of its own for each line, beside its colour


@dataclass(frozen=True)
class Chart:
    """What is drawn: bars of the rows, lines over `x`, or the rows' sweeps; a panel for each of `y`."""

    kind: Literal["bars", "lines", "sweep"]
    x: str
    y: list[str]
    log: bool


@dataclass(frozen=True)
class Point:
    """A row that is done: its label, the line it belongs to, its sweep; by key its params and mean measurements, and
    how these spread over seeds.
    """

    label: str
    group: str
    values: dict[str, Any]
    spread: dict[str, float]
    sweep: pd.DataFrame | None


def draw_chart(chart: Chart, points: list[Point], labels: dict[str, str], path: Path) -> str | None:
    """Draw to PATH.svg and PATH.png; a panel for each of `chart.y`. Returns the figure in words, None without data."""
    draw = {"bars": _bars, "lines": _lines, "sweep": _sweeps}[chart.kind]
    with styled():
        canvas = Figure(figsize=(min(3.7 * len(chart.y) + 0.3, 11), 3.4), layout="constrained")
        panels = canvas.subplots(1, len(chart.y), squeeze=False)[0]
        words = []
        for panel, key in zip(panels, chart.y, strict=True):
            told = draw(panel, chart, key, points)
            if told:
                words.append(f"{labels.get(key, key)}: {'; '.join(told)}")
            panel.set_ylabel(labels.get(key, key))
            panel.set_xlabel(labels.get(chart.x, panel.get_xlabel()))
        if not words:
            return None
        handles, names = panels[0].get_legend_handles_labels()
        if len(names) > 1:
            canvas.legend(handles, names, loc="outside lower center", ncols=len(chart.y))
        save(canvas, path)
    return ". ".join(words)


def _bars(panel: Axes, chart: Chart, key: str, points: list[Point]) -> list[str]:
    """A bar per row, with its value."""
    known = [point for point in points if point.values.get(key) is not None]
    values = [point.values[key] for point in known]
    errors = [point.spread.get(key, 0.0) for point in known] if any(key in point.spread for point in known) else None
    bars = panel.barh([point.label for point in known], values, xerr=errors, color=BLUE, height=0.6, capsize=3)
    panel.bar_label(bars, [f" {_told(point, key)}" for point in known])
    panel.invert_yaxis()
    panel.grid(axis="y", visible=False)
    panel.margins(x=0.25)
    return [f"{point.label} {_told(point, key)}" for point in known]


def _told(point: Point, key: str) -> str:
    """A mean with its spread over seeds."""
    over = point.spread.get(key)
    return f"{point.values[key]:.4g}" + ("" if over is None else f" ± {over:.2g}")


def _lines(panel: Axes, chart: Chart, key: str, points: list[Point]) -> list[str]:
    """A line per group over `chart.x`; rows that stand alone are levels to compare with."""
    groups: dict[str, list[Point]] = {}
    for point in points:
        if point.values.get(key) is not None and point.values.get(chart.x) is not None:
            groups.setdefault(point.group, []).append(point)
    told = []
    for number, (group, members) in enumerate(groups.items()):
        colour = f"C{number % 6}"
        ordered = sorted(members, key=lambda point: float(point.values[chart.x]))
        x, y = [point.values[chart.x] for point in ordered], [point.values[key] for point in ordered]
        if len(ordered) == 1:
            panel.axhline(y[0], color=colour, linestyle="--", linewidth=1.2, label=group)
        else:
            errors = [point.spread.get(key, 0.0) for point in ordered]
            marker = MARKERS[number % len(MARKERS)]
            panel.errorbar(x, y, errors, marker=marker, color=colour, label=group, capsize=3 if any(errors) else 0)
        told.append(
            f"{group} " + ", ".join(f"{_told(point, key)} at {a:g}" for a, point in zip(x, ordered, strict=True))
        )
    if chart.log:
        panel.set_xscale("log")
    panel.set_xlabel(chart.x)
    return told


def _sweeps(panel: Axes, chart: Chart, key: str, points: list[Point]) -> list[str]:
    """A line per row over the swept setting; `key` is a column of the sweep, or what it begins with."""
    told = []
    for number, point in enumerate(points):
        if point.sweep is None:
            continue
        axis, column = point.sweep.columns[0], next(name for name in point.sweep.columns if name.startswith(key))
        table = point.sweep.sort_values(axis)
        panel.plot(table[axis], table[column], marker=MARKERS[number % len(MARKERS)], label=point.label)
        panel.set_xlabel(axis)
        told.append(f"{point.label} from {table[column].iloc[0]:.4g} to {table[column].iloc[-1]:.4g}")
    return told
