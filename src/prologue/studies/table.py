"""The table of a study, as study.json holds it."""

from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from prologue.core.errors import PrologueError

STUDY = "study.json"
Value = float | None


class Column(BaseModel):
    """A metric of the table: its key in the rows, and what the paper calls what it measured."""

    key: str
    label: str
    better: Literal["lower", "higher", ""] = ""
    paper: str = ""


class Row(BaseModel):
    """One experiment of the study."""

    label: str
    overrides: dict[str, Any] = {}
    status: Literal["done", "failed", "not run"]
    reason: str = ""
    commit: str = ""
    params: dict[str, Any] = {}
    metrics: dict[str, Value] = {}
    paper: dict[str, Value] = {}

    def measured(self, column: Column) -> Value:
        """The row's value of a metric; None where it has none, or is not done."""
        return self.metrics.get(column.key) if self.status == "done" else None


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
    rows: list[Row]
    figures: list[StudyFigure] = []

    @property
    def state(self) -> str:
        """How many rows are done, failed, not run."""
        counts = {status: sum(row.status == status for row in self.rows) for status in ("done", "failed", "not run")}
        rest = "".join(f", {count} {status}" for status, count in counts.items() if count and status != "done")
        return f"{counts['done']} of {len(self.rows)} rows done{rest}"


def read_study(path: Path) -> Study:
    """Read a study.json. Raises PrologueError for one that is missing or does not hold a study."""
    try:
        return Study.model_validate_json(path.read_text())
    except FileNotFoundError:
        raise PrologueError(f"{path} not found: run the study first") from None
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, it['loc']))}: {it['msg']}" for it in error.errors())
        raise PrologueError(f"{path} holds no study: {problems}") from None
