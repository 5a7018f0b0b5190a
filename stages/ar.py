"""Stage 2: train the full-size AR model on the cached tokens, or import a published one."""

from pathlib import Path

from prologue.core.stage import run_stage
from prologue.pipeline.ar import make_ar

run_stage(
    "ar",
    lambda params: make_ar(
        params,
        tokenizer=Path("models/attached"),
        tokens=Path("data/tokens"),
        output=Path("models/ar"),
        curves=Path("reports/curves/ar"),
    ),
)
