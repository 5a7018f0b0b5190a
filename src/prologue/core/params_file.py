"""Reading params.yaml as DVC reads it: every param validated before any work.

Unknown keys, wrong types and values out of range raise `ParamsError`, whose message names every bad key.
"""

import difflib
from pathlib import Path

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from prologue.core.errors import PrologueError
from prologue.core.files import read_yaml
from prologue.core.params import Params
from prologue.core.systems import with_setting

PARAMS_FILE = Path("params.yaml")


class ParamsError(PrologueError):
    """params.yaml cannot be used; the message names each bad key and what is allowed."""


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and validate a params file.

    Raises:
        ParamsError: the file is missing, is not YAML, or holds a missing, unknown or bad key.
    """
    try:
        values = read_yaml(path)
    except FileNotFoundError:
        raise ParamsError(f"{path} not found: run from the root of the project") from None
    except PrologueError as error:
        raise ParamsError(str(error)) from None
    return validate(values, str(path))


def validate(values: object, source: str) -> Params:
    """Params of plain values. Raises ParamsError naming `source` and each bad key."""
    try:
        params = Params.model_validate(values)
        for value in params.sweep.values:
            with_setting(params.sampling.cfg, params.sweep.axis, value)
    except ValidationError as error:
        problems = "\n".join(f"  {_explain(problem)}" for problem in error.errors())
        raise ParamsError(f"{source} cannot be used:\n{problems}") from None
    except ValueError as error:
        raise ParamsError(f"{source} cannot be used:\n  sweep.values: {error}") from None
    return params


def _explain(problem: ErrorDetails) -> str:
    """One line for one pydantic error: key, what is wrong, the nearest valid key."""
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key{_nearest(problem['loc'])}"
    if problem["type"] == "missing":
        return f"{key}: missing"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{key}: {message} (got {problem['input']!r})" if key else message


def _nearest(location: tuple[int | str, ...]) -> str:
    model: type[BaseModel] = Params
    *parents, key = map(str, location)
    for part in parents:
        annotation = model.model_fields[part].annotation
        assert isinstance(annotation, type)
        model = annotation
    close = difflib.get_close_matches(key, model.model_fields, n=1)
    known = ", ".join(model.model_fields)
    return f"; did you mean {close[0]}?" if close else f"; allowed here: {known}"
