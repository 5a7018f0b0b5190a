"""What each stage depends on beside its data: its code, and the plan of a training."""

from pathlib import Path

from prologue.core.stage import run_stage
from prologue.pipeline.plan import write_plans

run_stage("plan", lambda params: write_plans(params, stages=Path("stages"), output=Path("data/plan")), processes="one")
