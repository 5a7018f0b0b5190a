"""One offline page of all metrics and figures."""

from pathlib import Path

from prologue.core.stage import METRICS, run_stage
from prologue.report.front import write_report

run_stage(
    "report",
    lambda params: write_report(
        params,
        metrics=METRICS,
        figures=Path("reports/figures"),
        curves=Path("reports/curves"),
        watermark=Path("reports/watermark"),
        output=Path("reports/index.html"),
    ),
    processes="one",
)
