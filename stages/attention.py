"""Draw and measure what the AR model attends to."""

from pathlib import Path

from prologue.core.stage import run_stage
from prologue.evaluation.attention import evaluate_attention

run_stage(
    "attention",
    lambda _: evaluate_attention(
        ar_folder=Path("models/ar"),
        tokenizer_folder=Path("models/attached"),
        tokens=Path("data/tokens"),
        shards=Path("data/shards"),
        figures=Path("reports/figures/attention"),
    ),
)
