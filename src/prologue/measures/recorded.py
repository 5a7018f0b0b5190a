"""Metrics as the stages wrote them."""

import json
from pathlib import Path

from prologue.core.dotted import flat
from prologue.core.errors import PrologueError
from prologue.measures.registry import STAGES, Metrics


def read_metrics(folder: Path) -> Metrics:
    """Metrics of every stage that left a file STAGE.json in `folder`. Raises PrologueError as `parse_metrics`."""
    return parse_metrics({path.stem: path.read_text() for path in sorted(folder.glob("*.json"))})


def parse_metrics(files: dict[str, str]) -> Metrics:
    """Metrics of stages, in the order of the DAG; stages unknown here come last, and the report's own are left out.

    Args:
        files: stage -> JSON.

    Raises:
        PrologueError: a file is no JSON object.
    """
    present = [stage for stage in files if stage != "report"]
    metrics = {}
    for stage in [*(stage for stage in STAGES if stage in present), *(s for s in present if s not in STAGES)]:
        try:
            metrics[stage] = flat(json.loads(files[stage]))
        except (ValueError, AttributeError) as error:
            raise PrologueError(f"{stage}.json is no JSON object ({error}); run stage {stage} again") from None
    return metrics
