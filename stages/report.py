"""One offline page of all metrics and figures."""

from pathlib import Path
from typing import Any

from prologue.params import Params
from prologue.report.front import write_report
from prologue.stage import METRICS, run_stage


def main(params: Params) -> dict[str, Any]:
    return write_report(
        params,
        metrics=METRICS,
        figures=Path("reports/figures"),
        curves=Path("reports/curves"),
        output=Path("reports/index.html"),
    )


run_stage("report", main)
