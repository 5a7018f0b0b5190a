"""Settings that the sweep found best for each run of samples, and that the samples take."""

from pathlib import Path

from prologue.core.conventions import SAMPLING_RUNS
from prologue.core.errors import PrologueError
from prologue.core.files import read_json
from prologue.core.params import SamplingParams
from prologue.core.systems import with_setting

ADOPTED = "adopted.json"
Adopted = dict[str, dict[str, float]]  # run -> SEGMENT.KEY -> value


def read_adopted(folder: Path) -> Adopted:
    """What the stage sweep chose. Raises PrologueError where it has not run."""
    path = folder / ADOPTED
    if not path.is_file():
        raise PrologueError(f"{path} not found: run the stage sweep first")
    adopted: Adopted = read_json(path)
    return adopted


def with_adopted(sampling: SamplingParams, adopted: Adopted) -> SamplingParams:
    """The params of sampling with both runs at the adopted settings."""
    runs = {}
    for name in SAMPLING_RUNS:
        run = getattr(sampling, name)
        for axis, value in adopted.get(name, {}).items():
            run = with_setting(run, axis, value)
        runs[name] = run
    return sampling.model_copy(update=runs)
