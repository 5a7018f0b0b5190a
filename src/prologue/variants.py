"""Named sets of overrides: variants/NAME.yaml maps dotted params keys to values; several compose, the last wins."""

from pathlib import Path

import yaml

from prologue.errors import PrologueError
from prologue.params import PARAMS_FILE, Params, ParamsError, validate

VARIANTS = Path("variants")


def load_variants(names: list[str]) -> dict[str, object]:
    """Overrides of the named variants by dotted key.

    Raises:
        PrologueError: a variant does not exist or is no mapping.
        ParamsError: params.yaml with these overrides would be refused.
    """
    overrides: dict[str, object] = {}
    for name in names:
        path = VARIANTS / f"{name}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(path.stem for path in VARIANTS.glob("*.yaml")))
            raise PrologueError(f"there is no variant {name}; known: {known}")
        values = yaml.safe_load(path.read_text())
        if not isinstance(values, dict):
            raise PrologueError(f"{path} must map params keys to values")
        overrides |= values
    apply_overrides(overrides)
    return overrides


def apply_overrides(overrides: dict[str, object], path: Path = PARAMS_FILE) -> Params:
    """A file's params with dotted keys overridden. Raises ParamsError for keys or values that do not fit."""
    values = yaml.safe_load(path.read_text())
    for key, value in overrides.items():
        section = values
        *parents, last = key.split(".")
        for parent in parents:
            section = section.get(parent)
            if not isinstance(section, dict):
                raise ParamsError(f"{key}: there is no section {parent} in {path}")
        section[last] = value
    return validate(values, str(path))


def experiment_flags(overrides: dict[str, object]) -> list[str]:
    """Overrides as the words of `dvc exp run -S key=value ...`."""
    words = []
    for key, value in overrides.items():
        text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        words += ["-S", f"{key}={text}"]
    return words
