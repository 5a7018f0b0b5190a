"""Which code a result follows from: a script or module with every module of the project that it imports.

Comments, docstrings and blank lines are left out, since they change no result. So are two modules with all that only
they import: params.py declares and checks, and the values that it lets through stand beside the code wherever that
counts; pictures.py draws what `prologue watch` shows, which is in no output.
"""

import ast
import hashlib
import io
import tokenize
from functools import cache
from pathlib import Path

from prologue.core.files import sha256

PACKAGE = Path(__file__).parents[1]
ASIDE = {PACKAGE / "core" / "params.py", PACKAGE / "pipeline" / "pictures.py"}
DIGITS = 12  # of a digest


def code_digests(start: Path) -> dict[str, str]:
    """Digests of the code of a Python file and of all that it imports, by path.

    Paths are relative to the folder of the package; the file itself, where it lies elsewhere, has its name alone.
    Files of another kind in a folder beside the imported modules, such as templates, count whole.
    """
    found: dict[Path, str] = {}
    waiting = [start.resolve()]
    while waiting:
        path = waiting.pop()
        if path not in found and path not in ASIDE:
            found[path] = code_digest(path)
            waiting += imported_files(path)
            if path.is_relative_to(PACKAGE):
                found |= {file: sha256(file)[:DIGITS] for file in _data_files(path.parent)}
    return {_name(path): found[path] for path in sorted(found)}


def _name(path: Path) -> str:
    inside = path.is_relative_to(PACKAGE)
    return path.relative_to(PACKAGE.parent).as_posix() if inside else path.name


@cache
def code_digest(path: Path) -> str:
    """Digest of what a Python file does: the same for the same code, whatever is said about it."""
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            lines[token.start[0] - 1] = lines[token.start[0] - 1][: token.start[1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)  # type: ignore[operator]
    code = "\n".join(line.rstrip() for line in lines if line.strip())
    return hashlib.sha256(code.encode()).hexdigest()[:DIGITS]


@cache
def imported_files(path: Path) -> tuple[Path, ...]:
    """Files of the package that a Python file's import statements name, wherever they stand, with their packages."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            modules |= {name.name for name in node.names}
    files: set[Path] = set()
    for module in modules:
        first, *parts = module.split(".")
        if first == PACKAGE.name:
            for length in range(len(parts) + 1):  # importing a module runs its packages too
                base = PACKAGE.joinpath(*parts[:length])
                files |= {file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()}
    return tuple(sorted(files))


@cache
def _data_files(folder: Path) -> tuple[Path, ...]:
    """Files of the folders in a package that are no packages themselves."""
    beside = [path for path in folder.iterdir() if path.is_dir() and path.name != "__pycache__"]
    data = [path for path in beside if not (path / "__init__.py").is_file()]
    return tuple(sorted(file for path in data for file in path.rglob("*") if file.is_file()))
