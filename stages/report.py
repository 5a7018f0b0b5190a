"""One offline page of all metrics and figures."""

from pathlib import Path
from typing import Any

from prologue.core.params import Params
from prologue.core.stage import METRICS, run_stage
from prologue.report.front import write_report


def main(params: Params) -> dict[str, Any]:
    return write_report(
        params,
        metrics=METRICS,
        figures=Path("reports/figures"),
        curves=Path("reports/curves"),
        output=Path("reports/index.html"),
    )


run_stage("report", main, processes="one")
