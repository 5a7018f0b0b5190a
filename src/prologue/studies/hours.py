"""How long rows will take, by what the same stages took before."""

from pathlib import Path
from statistics import fmean
from typing import Any

from prologue.core.dotted import value_at
from prologue.core.params import Params
from prologue.measures.recorded import read_metrics
from prologue.measures.registry import Metrics
from prologue.studies.saved import ROWS, SavedRow, read_saved

TRAININGS = ("tokenizer", "attach", "ar")
SIZES = (  # params by which a step or an image takes longer
    "data.source",
    "data.image_size",
    "tokenizer.patch",
    "tokenizer.tokens",
    "tokenizer.encoder",
    "tokenizer.decoder",
    "stage1.batch",
    "ar.layers",
    "ar.dim",
    "ar.batch",
    "sampling.images",
)


class StageHours:
    """Measured hours of stages: in the rows of the study that are saved, else in the project's last run.

    Those of trainings in the project's run count by the step; it tells nothing of images and models of other sizes.
    """

    def __init__(self, study: Path, metrics: Path, params: Params) -> None:
        """`params`: of the project, as it last ran."""
        self.rows = [read_saved(path) for path in sorted((study / ROWS).glob("*.json"))]
        self.last, self.params = read_metrics(metrics), params
        self.basis = "rows of this study" if self.rows else "the project's last run"

    def of(self, stages: list[str], params: Params) -> float | None:
        """Hours of some stages with some params; None where one was never measured."""
        found = [self._stage(stage, params) for stage in stages]
        return None if None in found else sum(hours for hours in found if hours is not None)

    def _stage(self, stage: str, params: Params) -> float | None:
        if stage == "attach" and params.prologue.mode != "post":
            return 0.0
        alike = [_hours(row.metrics, stage) for row in self.rows if _is_like(row, stage, params)]
        if alike:
            return fmean(alike)
        if _sizes(params) != _sizes(self.params):
            return None
        hours = _hours(self.last, stage)
        if stage not in TRAININGS or not hours:
            return hours if stage in self.last else None
        section = {"tokenizer": params.stage1.steps, "attach": params.prologue.post.steps, "ar": params.ar.steps}[stage]
        steps = self.last[stage].get("steps")
        return hours * section / steps if isinstance(section, int) and steps else None


def _sizes(params: Params) -> list[Any]:
    values = params.model_dump(mode="json")
    return [value_at(values, key) for key in SIZES]


def _hours(metrics: Metrics, stage: str) -> float:
    return float(metrics.get(stage, {}).get("seconds", 0)) / 3600


def _is_like(row: SavedRow, stage: str, params: Params) -> bool:
    """Whether a saved row ran a stage for a system of the same kind."""
    return stage in row.metrics and row.params.get("prologue.mode") == params.prologue.mode
