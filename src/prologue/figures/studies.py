"""Figures of studies: values by row, ratios to the baseline, lines over a param, guidance sweeps in one chart."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from prologue.figures.style import BLUE, INK, look, save, styled
from prologue.measures.registry import NAMED
from prologue.measures.seeds import Contrast

TICKS = (1, 1.2, 1.5, 2, 3, 5, 7, 8.5)  # of ratios, and a tenth of them
RING: dict[str, Any] = {"markerfacecolor": "none", "markersize": 9, "linestyle": "none"}  # around another mark
ROOM = 1.25  # times the outermost marks: what an axis of ratios shows
LABEL = 32  # letters in a line of an axis' label
Kind = Literal["values", "lines", "ratios", "sweep"]


@dataclass(frozen=True)
class Chart:
    """What is drawn: values of the rows, lines over `x`, or the rows' sweeps, a panel for each of `y`; or ratios to the
    baseline, all of `y` in one panel.
    """

    kind: Kind
    x: str
    y: list[str]
    log: bool


@dataclass(frozen=True)
class Point:
    """A row that is done: its label, the line it belongs to, its sweep; by key its params and mean measurements, how
    these spread over seeds, how they differ from the baseline's, the paper's ratio to it, and of one seed the interval
    over images.
    """

    label: str
    group: str
    values: dict[str, Any]
    spread: dict[str, float]
    sweep: pd.DataFrame | None
    against: dict[str, Contrast] = field(default_factory=dict)
    paper: dict[str, float] = field(default_factory=dict)
    interval: dict[str, tuple[float, float]] = field(default_factory=dict)

    def error(self, key: str) -> tuple[float, float]:
        """How far its mark of a metric reaches down and up: the spread over seeds, or of one seed the interval."""
        if key in self.interval:
            low, high = self.interval[key]
            return self.values[key] - low, high - self.values[key]
        return self.spread.get(key, 0.0), self.spread.get(key, 0.0)


def draw_chart(chart: Chart, points: list[Point], labels: dict[str, str], path: Path) -> str | None:
    """Draw to PATH.svg and PATH.png. Returns the figure in words, None without data."""
    with styled():
        words = (_ratios if chart.kind == "ratios" else _panels)(chart, points, labels, path)
    return ". ".join(words) if words else None


def _panels(chart: Chart, points: list[Point], labels: dict[str, str], path: Path) -> list[str]:
    """A panel for each of `chart.y`. Returns what each shows; nothing is written where none shows anything."""
    draw = {"values": _values, "lines": _lines, "sweep": _sweeps}[chart.kind]
    width, height = min(3.7 * len(chart.y) + 0.3, 11), 3.4
    if chart.kind == "values":
        width, height = 5.5 * len(chart.y), 1 + 0.3 * len(points)
    canvas = Figure(figsize=(width, height), layout="constrained")
    panels = canvas.subplots(1, len(chart.y), squeeze=False)[0]
    words = []
    for panel, key in zip(panels, chart.y, strict=True):
        told = draw(panel, chart, key, points)
        if told:
            words.append(f"{labels.get(key, key)}: {'; '.join(told)}")
        label = labels.get(key, panel.get_ylabel() or key)
        label = f"{label}, of the sweep" if chart.kind == "sweep" else label
        if chart.kind == "values":
            panel.set_xlabel(label)
        else:
            panel.set_ylabel(fill(label, LABEL))
            panel.set_xlabel(labels.get(chart.x, panel.get_xlabel()))
    if words:
        handles, names = panels[0].get_legend_handles_labels()
        if len(names) > 1:
            canvas.legend(handles, names, loc="outside lower center", ncols=len(chart.y))
        save(canvas, path)
    return words


def _ratios(chart: Chart, points: list[Point], labels: dict[str, str], path: Path) -> list[str]:
    """A line for each of `chart.y`, on it a mark for each row: its ratio to the baseline, the interval, the paper's.

    Returns what each line shows; nothing is written without any.
    """
    keys = [key for key in chart.y if any(key in point.against for point in points)]
    compared = [point for point in points if any(key in point.against for key in keys)]
    canvas = Figure(figsize=(9, 1 + 0.24 * len(keys) * len(compared)), layout="constrained")
    panel = canvas.subplots()
    words = []
    for place, key in enumerate(keys):
        told = []
        for number, point in enumerate(compared):
            if key in point.against:
                told.append(_mark(panel, place + 0.7 * ((number + 0.5) / len(compared) - 0.5), number, point, key))
        words.append(f"{labels.get(key, key)}: {'; '.join(told)}")
    if words:
        panel.axvline(1, color=INK, linewidth=1, zorder=1)
        panel.set_yticks(range(len(keys)), [labels.get(key, key) for key in keys])
        panel.invert_yaxis()
        panel.grid(axis="y", visible=False)
        panel.set_xscale("log")
        marks = [mark for point in compared for key in keys for mark in _marks(point, key)]
        panel.set_xlim(min(marks) / ROOM, max(marks) * ROOM)  # the ends of intervals beyond are in the words beside
        panel.xaxis.set_major_locator(LogLocator(subs=TICKS))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        canvas.legend(handles=_legend(compared, keys), loc="outside lower center", ncols=len(compared) + 1)
        save(canvas, path)
    return words


def _mark(panel: Axes, height: float, number: int, point: Point, key: str) -> str:
    """A row's ratio with its interval and in words, and the paper's, a ring. Returns both in words."""
    found, paper, mark = point.against[key], point.paper.get(key), look(number)
    assert found.ratio is not None
    panel.plot(found.ratio, height, **mark)
    if found.ratio_low is not None and found.ratio_high is not None:
        ends = [found.ratio_low, found.ratio_high]
        panel.plot(ends, [height, height], marker="|", markersize=8, color=mark["color"])
    panel.text(1.01, height, found.ratio_text, transform=panel.get_yaxis_transform(), va="center", fontsize=9)
    if paper is None:
        return f"{point.label} {found.ratio_text}"
    panel.plot(paper, height, **RING, **mark)
    return f"{point.label} {found.ratio_text}, the paper's {paper:.2f}"


def _marks(point: Point, key: str) -> list[float]:
    """A row's ratio and the paper's, where they are known."""
    found = point.against.get(key)
    known = (found.ratio, point.paper.get(key)) if found else ()
    return [ratio for ratio in known if ratio is not None]


def _legend(compared: list[Point], keys: list[str]) -> list[Line2D]:
    """A mark for each row, and a ring where the paper's ratio is drawn."""
    handles = [Line2D([], [], linestyle="none", label=point.label, **look(n)) for n, point in enumerate(compared)]
    if any(key in point.paper for point in compared for key in keys):
        handles.append(Line2D([], [], marker="o", color=INK, label="the paper's, ImageNet 256", **RING))
    return handles


def _values(panel: Axes, chart: Chart, key: str, points: list[Point]) -> list[str]:
    """A line per row: a mark at its value, how far chance reaches, and both in numbers."""
    known = [point for point in points if point.values.get(key) is not None]
    if not known:
        return []
    for place, point in enumerate(known):
        panel.errorbar(point.values[key], place, xerr=np.array([point.error(key)]).T, fmt="o", color=BLUE, capsize=3)
        panel.text(1.01, place, _told(point, key), transform=panel.get_yaxis_transform(), va="center", fontsize=9)
    panel.set_yticks(range(len(known)), [point.label for point in known])
    panel.set_ylim(len(known) - 0.5, -0.5)
    panel.margins(x=0.1)
    return [f"{point.label} {_told(point, key)}" for point in known]


def _told(point: Point, key: str) -> str:
    """A mean with its spread over seeds; of one seed its interval over images."""
    text, over, within = f"{point.values[key]:.4g}", point.spread.get(key), point.interval.get(key)
    if within:
        return f"{text} [{within[0]:.4g}, {within[1]:.4g}]"
    return text if over is None else f"{text} ± {over:.2g}"


def _lines(panel: Axes, chart: Chart, key: str, points: list[Point]) -> list[str]:
    """A line per group over `chart.x`; rows of no group are levels to compare with."""
    groups: dict[str, list[Point]] = {}
    for point in points:
        if point.values.get(key) is not None and point.values.get(chart.x) is not None:
            groups.setdefault(point.group, []).append(point)
    told = []
    for number, (group, members) in enumerate(groups.items()):
        mark = look(number)
        ordered = sorted(members, key=lambda point: float(point.values[chart.x]))
        x, y = [point.values[chart.x] for point in ordered], [point.values[key] for point in ordered]
        if [point.label for point in ordered] == [group]:
            panel.axhline(y[0], color=mark["color"], linestyle="--", linewidth=1.2, label=group)
            told.append(f"{group} {_told(ordered[0], key)}")
            continue
        errors = np.array([point.error(key) for point in ordered]).T
        panel.errorbar(x, y, errors, label=group, capsize=3 if errors.any() else 0, **mark)
        told.append(
            f"{group} " + ", ".join(f"{_told(point, key)} at {a:,.12g}" for a, point in zip(x, ordered, strict=True))
        )
    if chart.log:
        panel.set_xscale("log")
    panel.set_xlabel(chart.x)
    return told


def _sweeps(panel: Axes, chart: Chart, key: str, points: list[Point]) -> list[str]:
    """A line per row over the swept setting of a metric of the run with guidance, a ring around its best."""
    told = []
    for number, point in enumerate(points):
        if point.sweep is None:
            continue
        axis = point.sweep.columns[0]
        column = next(name for name in point.sweep.columns if re.fullmatch(NAMED[key].key, f"cfg.{name}"))
        table = point.sweep.sort_values(axis)
        settings, values = list(table[axis]), list(table[column])
        best = values.index(min(values) if NAMED[key].better == "lower" else max(values))
        panel.plot(settings, values, label=point.label, **look(number))
        panel.plot(settings[best], values[best], **RING, **look(number))
        panel.set_xlabel(axis)
        panel.set_ylabel(column)
        ends = f"from {values[0]:.4g} to {values[-1]:.4g}"
        told.append(f"{point.label} {ends}, best {values[best]:.4g} at {settings[best]:g}")
    return told
