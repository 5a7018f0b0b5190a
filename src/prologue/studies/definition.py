"""A study as it is written in studies/NAME.yaml: rows of variants and overrides, and what is compared.

title: ...
question: ...
columns: [rfd, gfd]               # of studies/columns.py
headline: gfd                     # the column that answers the question; the first where none is named
seeds: [0, 1, 2]                  # each row is run with each; 0 alone where none are given
baseline: 2D                      # label of the row that the others are compared with, seed by seed
rows:
- label: 2D                       # {}, or {0}, {1}: the values of the row's overrides, then of its times
  variants: [2d]                  # or by scale, {default: [...], imagenet: [...]}; the small scales take default's, and
                                  # a scale that is not named is without the row
  overrides: {prologue.tau: 0.1}  # params of the row
  times: {prologue.tokens: 4}     # params as multiples of what they are at this scale
  group: 2D                       # the line of a figure that the row is a point of
  paper: {rfd: 2.15}              # the paper's values
figures:
- {kind: lines, x: prologue.ar_weight, y: [rfd, gfd], title: ..., caption: ...}
"""

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from prologue.core.dotted import flat
from prologue.core.errors import PrologueError
from prologue.core.files import read_yaml
from prologue.core.params import Params, Section
from prologue.core.variants import Overrides, apply_overrides, load_variants
from prologue.figures.studies import Chart, Kind
from prologue.studies.columns import KNOWN, metrics_of

STUDIES = Path("studies")
SWEPT = ("gfd", "is")  # what the stage sweep measures, with guidance
SMALL = ("small_third", "small", "small_triple")  # one size, at three lengths of training
SCALES: dict[str, list[str]] = {
    "smoke": ["smoke"],
    "default": [],
    **{name: [name] for name in SMALL},
    "imagenet": ["imagenet_b_b"],
}


class RowDefinition(Section):
    """A row: an experiment on top of the scale's own params."""

    label: str
    variants: list[str] | dict[str, list[str]] = Field(default_factory=list)
    overrides: dict[str, Any] = Field(default_factory=dict)
    times: dict[str, float] = Field(default_factory=dict)
    group: str = ""
    paper: dict[str, float] = Field(default_factory=dict)


class FigureDefinition(Section):
    """A figure: values of columns by row, ratios to the baseline, lines over a param or column, or the rows' sweeps."""

    kind: Kind
    title: str
    caption: str
    x: str = ""
    y: list[str]
    log: bool = False

    @property
    def chart(self) -> Chart:
        """What is drawn."""
        return Chart(self.kind, self.x, self.y, self.log)


class StudyDefinition(Section):
    """The file of a study."""

    title: str
    question: str
    columns: list[str]
    headline: str = ""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = Field(default=[0])
    baseline: str = ""
    rows: list[RowDefinition]
    figures: list[FigureDefinition] = Field(default_factory=list)

    @model_validator(mode="after")
    def known(self) -> "StudyDefinition":
        """Refuse columns, values of the paper and figures of what nothing measures."""
        asked = {*self.columns, *(key for row in self.rows for key in row.paper)}
        asked |= {key for figure in self.figures for key in figure.y}
        if unknown := sorted(asked - set(KNOWN)):
            raise ValueError(f"nothing measures {', '.join(unknown)}; known: {', '.join(KNOWN)}")
        if self.headline not in ("", *self.columns):
            raise ValueError(f"headline: {self.headline} is no column; known: {', '.join(self.columns)}")
        for figure in self.figures:
            if figure.kind == "sweep" and (others := sorted(set(figure.y) - set(SWEPT))):
                raise ValueError(f"figures: a sweep measures {' and '.join(SWEPT)}, not {', '.join(others)}")
        return self

    @model_validator(mode="after")
    def has_its_baseline(self) -> "StudyDefinition":
        """Refuse a baseline that is no row, and ratios without one."""
        labels = [row.label for row in self.rows]
        if self.baseline and self.baseline not in labels:
            raise ValueError(f"baseline: there is no row {self.baseline}; known: {', '.join(labels)}")
        if not self.baseline and any(figure.kind == "ratios" for figure in self.figures):
            raise ValueError("figures: ratios are to the baseline, and there is none")
        return self

    @property
    def measured(self) -> list[str]:
        """Keys of all measurements that table and figures need."""
        axes = [key for figure in self.figures for key in (figure.x, *figure.y) if key in KNOWN]
        return list(dict.fromkeys([*self.columns, *axes]))

    @property
    def stages(self) -> list[str]:
        """The stages that measure them: a row runs these and what they depend on."""
        sweeps = {"sweep" for figure in self.figures if figure.kind == "sweep"}
        return sorted(sweeps | {metric.stage for key in self.measured for metric in metrics_of(key)})


@dataclass(frozen=True)
class StudyRow:
    """A row at a scale and seed: its name as an experiment, all that it overrides, and the params that follow."""

    name: str
    label: str
    seed: int
    group: str
    paper: dict[str, float]
    overrides: Overrides
    params: Params


def load_study(name: str) -> StudyDefinition:
    """Read studies/NAME.yaml. Raises PrologueError for a study that is unknown or badly written."""
    path = STUDIES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in STUDIES.glob("*.yaml")))
        raise PrologueError(f"there is no study {name}; known: {known}")
    try:
        return StudyDefinition.model_validate(read_yaml(path))
    except ValidationError as error:
        raise PrologueError(f"{path} cannot be used: {error}") from None


def rows_at(study: StudyDefinition, name: str, scale: str) -> list[StudyRow]:
    """The rows of a study at a scale, the first seed of all before the second.

    Raises:
        PrologueError: the scale is unknown, no row exists at it, two have one label, the baseline is none of them, or
            a figure is over what is no param.
        ParamsError: params.yaml with a row's overrides would be refused.
    """
    if scale not in SCALES:
        raise PrologueError(f"there is no scale {scale}; known: {', '.join(SCALES)}")
    rows = []
    for seed in study.seeds:
        for row in study.rows:
            variants = _variants_at(row, scale)
            if variants is not None:
                rows.append(_row_at(row, [*SCALES[scale], *variants], f"{name}-{scale}", study.stages, seed))
    if not rows:
        raise PrologueError(f"study {name} has no rows at the scale {scale}")
    labels = [row.label for row in rows if row.seed == study.seeds[0]]
    twice = [label for label, count in Counter(labels).items() if count > 1]
    if twice:
        raise PrologueError(f"study {name} has two rows of the label {twice[0]}; give each its own")
    if study.baseline and study.baseline not in labels:
        raise PrologueError(
            f"study {name}: no row has the baseline's label {study.baseline}; known: {', '.join(labels)}"
        )
    params = flat(rows[0].params.model_dump(mode="json"))
    axes = [figure.x for figure in study.figures if figure.kind == "lines" and figure.x not in params]
    if unknown := [axis for axis in axes if axis not in KNOWN]:
        raise PrologueError(f"study {name}: figures: x: {unknown[0]!r} is neither a param nor measured")
    return rows


def _variants_at(row: RowDefinition, scale: str) -> list[str] | None:
    """The row's variants at a scale; None where it has no row. Those of the default serve the small ones, too."""
    if isinstance(row.variants, list):
        return row.variants
    return row.variants.get(scale, row.variants.get("default") if scale in SMALL else None)


def _row_at(row: RowDefinition, variants: list[str], prefix: str, stages: list[str], seed: int) -> StudyRow:
    base = load_variants(variants) if variants else {}
    before = flat(apply_overrides(base).model_dump(mode="json"))
    unknown = sorted(row.times.keys() - before.keys())
    if unknown:
        raise PrologueError(f"row {row.label}: times: there is no param {unknown[0]}")
    words = [key for key in row.times if not isinstance(before[key], int | float)]
    if words:
        raise PrologueError(f"row {row.label}: times: {words[0]} is {before[words[0]]!r}, which is no number")
    multiplied = {key: _times(before[key], factor) for key, factor in row.times.items()}
    own = row.overrides | multiplied
    overrides = base | own | {"seed": seed}
    label = row.label.format(*(f"{value:g}" if isinstance(value, float) else value for value in own.values()))
    identity = hashlib.sha256(json.dumps([overrides, stages], sort_keys=True).encode()).hexdigest()[:6]
    name = f"{re.sub(r'[^a-zA-Z0-9]+', '-', f'{prefix}-{label.lower()}').strip('-')}-seed-{seed}-{identity}"
    return StudyRow(name, label, seed, row.group, row.paper, overrides, apply_overrides(overrides))


def _times(value: Any, factor: float) -> Any:
    """A count or number multiplied; counts stay counts."""
    return max(1, round(value * factor)) if isinstance(value, int) else value * factor
