"""Named sets of overrides of params.yaml.

Each file of variants/ maps names to overrides, nested as in params.yaml or with dotted keys. `extends` lists variants
that come first. Several variants compose; the last wins.
"""

import re
from pathlib import Path
from typing import Any

from prologue.core.dotted import flat
from prologue.core.errors import PrologueError
from prologue.core.files import read_yaml
from prologue.core.params import Params
from prologue.core.params_file import PARAMS_FILE, ParamsError, validate

VARIANTS = Path("variants")
Overrides = dict[str, object]
PLAIN = re.compile(r"[\w./+-]+", re.ASCII)  # text that needs no quotes,
NO_TEXT = re.compile(r"[+-]?(null|true|false|nan|inf|[\d_.]+(e[+-]?\d+)?)", re.IGNORECASE)  # unless it looks like this
QUOTE = re.compile(r"(\\*)'")  # with the backslashes before it


def load_variants(names: list[str]) -> Overrides:
    """Overrides of the named variants by dotted key.

    Raises:
        PrologueError: a variant does not exist, is defined twice or extends itself, or a file is no mapping.
        ParamsError: params.yaml with these overrides would be refused.
    """
    known = read_variants()
    overrides: Overrides = {}
    for name in names:
        overrides |= _resolve(name, known, ())
    apply_overrides(overrides)
    return overrides


def read_variants() -> dict[str, dict[str, Any]]:
    """Every variant of the files of variants/ as it is written. Raises PrologueError as `load_variants`."""
    known: dict[str, dict[str, Any]] = {}
    for path in sorted(VARIANTS.glob("*.yaml")):
        rows = read_yaml(path)
        if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
            raise PrologueError(f"{path} must map names of variants to overrides")
        twice = sorted(map(str, rows.keys() & known.keys()))
        if twice:
            raise PrologueError(f"{path} defines {', '.join(twice)} again; give it another name")
        known |= {str(name): row for name, row in rows.items()}
    return known


def _resolve(name: str, known: dict[str, dict[str, Any]], within: tuple[str, ...]) -> Overrides:
    """Overrides of one variant after those that it extends."""
    if name not in known:
        raise PrologueError(f"there is no variant {name}; known: {', '.join(sorted(known))}")
    if name in within:
        raise PrologueError(f"variant {name} extends itself: {' > '.join((*within, name))}")
    row = dict(known[name])
    overrides: Overrides = {}
    for parent in row.pop("extends", []):
        overrides |= _resolve(str(parent), known, (*within, name))
    return overrides | flat(row)


def apply_overrides(overrides: Overrides, path: Path = PARAMS_FILE) -> Params:
    """A file's params with dotted keys overridden. Raises ParamsError for keys or values that do not fit."""
    return validate(override(overrides, path), str(path))


def override(overrides: Overrides, path: Path = PARAMS_FILE) -> dict[str, Any]:
    """A file's plain values with dotted keys overridden. Raises ParamsError for a section that does not exist."""
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise ParamsError(f"{path} holds no params")
    for key, value in overrides.items():
        section: Any = values
        *parents, last = key.split(".")
        for parent in parents:
            section = section.get(parent)
            if not isinstance(section, dict):
                raise ParamsError(f"{key}: there is no section {parent} in {path}")
        section[last] = value
    return values


def experiment_flags(overrides: Overrides) -> list[str]:
    """Overrides as the words of `dvc exp run -S key=value ...`."""
    words = []
    for key, value in overrides.items():
        words += ["-S", f"{key}={_text(value)}"]
    return words


def _text(value: object) -> str:
    """A value in the grammar of `-S`, which is Hydra's; text that would be read as something else in quotes."""
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, str):
        plain = PLAIN.fullmatch(value) and not NO_TEXT.fullmatch(value)
        return value if plain else "'" + QUOTE.sub(r"\1\1\\'", value) + "'"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
