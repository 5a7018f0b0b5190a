"""Linear probe of the frozen tokenizer: what do the prologue tokens know of the class?"""

from pathlib import Path

from prologue.core.stage import run_stage
from prologue.probe.run import run_probe

run_stage(
    "probe",
    lambda params: run_probe(
        params,
        attached=Path("models/attached"),
        shards=Path("data/shards"),
        curves=Path("reports/curves/probe"),
    ),
)
