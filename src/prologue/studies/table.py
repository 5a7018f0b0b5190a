"""The table of a study, as study.json holds it."""

from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from prologue.core.errors import PrologueError
from prologue.measures.seeds import Contrast, contrast

STUDY = "study.json"
Value = float | None


class Column(BaseModel):
    """A metric of the table: its key in the rows, and what the paper calls what it measured."""

    key: str
    label: str
    better: Literal["lower", "higher", ""] = ""
    paper: str = ""


Status = Literal["done", "earlier code", "outdated", "failed", "not run"]


class Run(BaseModel):
    """One experiment: a row with one seed. `intervals` are over images, 95 %; `precision` is of its trainings."""

    seed: int = 0
    status: Status
    reason: str = ""
    commit: str = ""
    precision: str = ""
    metrics: dict[str, Value] = {}
    intervals: dict[str, tuple[float, float]] = {}


class Row(BaseModel):
    """A row of the study: its runs, the means of what they measured, and how it differs from the baseline."""

    label: str
    overrides: dict[str, Any] = {}
    params: dict[str, Any] = {}
    runs: list[Run]
    metrics: dict[str, Value] = {}
    spread: dict[str, Value] = {}
    against_baseline: dict[str, Contrast] = {}
    paper: dict[str, Value] = {}

    @property
    def done(self) -> list[Run]:
        """The runs that have results."""
        return [run for run in self.runs if run.status in ("done", "earlier code", "outdated")]

    @property
    def status(self) -> str:
        """The status of its runs; where they differ, that of each that is not done, by seed."""
        seeds: dict[str, list[str]] = {}
        for run in self.runs:
            seeds.setdefault(run.status, []).append(str(run.seed))
        if len(seeds) == 1:
            return next(iter(seeds))
        return "; ".join(f"{status}: seed {', '.join(own)}" for status, own in seeds.items() if status != "done")

    @property
    def reason(self) -> str:
        """Why runs failed."""
        return "; ".join(dict.fromkeys(run.reason for run in self.runs if run.reason))

    def measured(self, column: Column) -> Value:
        """The row's mean of a metric; None where no run of it has one."""
        return self.metrics.get(column.key)

    def by_seed(self, key: str) -> dict[int, float]:
        """What its runs measured of a metric."""
        return {run.seed: value for run in self.done if (value := run.metrics.get(key)) is not None}

    def differs(self, other: "Row", key: str) -> bool | None:
        """Whether two rows differ in a metric by more than chance.

        Over the seeds that both have; of one seed by the intervals over images; None where neither tells.
        """
        found = contrast(self.by_seed(key), other.by_seed(key))
        if found and found.low is not None:
            return found.is_certain
        within = [row.done[0].intervals.get(key) for row in (self, other) if row.done]
        if len(within) < 2 or within[0] is None or within[1] is None:
            return None
        return within[0][1] < within[1][0] or within[1][1] < within[0][0]


class StudyFigure(BaseModel):
    """A picture beside study.json."""

    file: str
    png: str = ""
    title: str
    caption: str = ""
    alt: str


class Study(BaseModel):
    """A study.json."""

    name: str
    title: str
    question: str
    scale: str
    commit: str = ""
    created: datetime
    columns: list[Column]
    headline: str = ""
    seeds: list[int] = [0]
    baseline: str = ""
    rows: list[Row]
    figures: list[StudyFigure] = []

    @property
    def in_paper(self) -> list[Column]:
        """The columns of which the paper has a value for some row."""
        return [column for column in self.columns if any(row.paper.get(column.key) is not None for row in self.rows)]

    def in_baseline(self, column: Column) -> Value:
        """The paper's value of a metric for the baseline."""
        return next((row.paper.get(column.key) for row in self.rows if row.label == self.baseline), None)

    @property
    def state(self) -> str:
        """How many runs are done, and how many have which other status."""
        runs = [run.status for row in self.rows for run in row.runs]
        earlier = runs.count("earlier code")
        of_earlier = f" ({earlier} by earlier code)" if earlier else ""
        others = ("outdated", "failed", "not run")
        rest = "".join(f", {runs.count(status)} {status}" for status in others if status in runs)
        return f"{runs.count('done') + earlier} of {len(runs)} runs done{of_earlier}{rest}"


def read_study(path: Path) -> Study:
    """Read a study.json. Raises PrologueError for one that is missing or does not hold a study."""
    try:
        return Study.model_validate_json(path.read_text())
    except FileNotFoundError:
        raise PrologueError(f"{path} not found: run the study first") from None
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, it['loc']))}: {it['msg']}" for it in error.errors())
        raise PrologueError(f"{path} holds no study: {problems}") from None
