"""Whether the images are still the same: a digest of `data.source`, made anew by every run."""

from pathlib import Path

from prologue.core.stage import run_stage
from prologue.data.fingerprint import write_fingerprint

run_stage("source", lambda params: write_fingerprint(params.data, output=Path("data/source.json")), processes="one")
