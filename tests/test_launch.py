"""How a stage starts: as one process, or as `accelerate config` says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os
from prologue.core.launch import launch_as_configured
launch_as_configured()
print(os.environ.get("ACCELERATE_DYNAMO_BACKEND", "plain"))
"""
CONFIG = """
compute_environment: LOCAL_MACHINE
distributed_type: 'NO'
dynamo_config: {dynamo_backend: EAGER}
mixed_precision: 'no'
num_machines: 1
num_processes: 1
use_cpu: true
"""


@pytest.mark.slow  # accelerate takes its time to start
def test_a_stage_starts_as_accelerate_was_configured(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE")}

    def run() -> str:
        given = environment | {"HF_HOME": str(tmp_path)}
        done = subprocess.run([sys.executable, script], env=given, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert run() == "plain"
    (tmp_path / "accelerate").mkdir()
    (tmp_path / "accelerate" / "default_config.yaml").write_text(CONFIG)
    assert run() == "EAGER"
