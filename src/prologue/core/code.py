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

PACKAGE = Path(__file__).resolve().parents[1]
ASIDE = {PACKAGE / "core" / "params.py", PACKAGE / "pipeline" / "pictures.py"}
DIGITS = 12  # of a digest


def code_digests(start: Path) -> dict[str, str]:
    """Digests of the code of a Python file and of all that it imports, by path.

    Paths are relative to the folder of the package; the file itself, where it lies elsewhere, has its name alone.
    Files of another kind beside the imported modules, such as templates, count whole.
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
    source = path.read_bytes()
    lines = source.splitlines()
    for token in tokenize.tokenize(io.BytesIO(source).readline):
        if token.type == tokenize.COMMENT:
            number, column = token.start
            lines[number - 1] = lines[number - 1].decode()[:column].encode()
    inside = set()  # lines that end within a string
    said = set()  # strings that are statements
    for node in ast.walk(ast.parse(source)):  # a statement comes before its parts
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            _cut(lines, node)
            said.add(node.value)
        elif isinstance(node, ast.Constant | ast.JoinedStr) and node not in said and node.end_lineno is not None:
            inside |= set(range(node.lineno, node.end_lineno))
    kept = (line if number in inside else line.rstrip() for number, line in enumerate(lines, start=1))
    code = b"\n".join(line for number, line in enumerate(kept, start=1) if line or number in inside)
    return hashlib.sha256(code).hexdigest()[:DIGITS]


def _cut(lines: list[bytes], node: ast.Expr) -> None:
    """Take a statement out of the lines; what stands beside it on its first and last line stays."""
    assert node.end_lineno is not None
    first, last = lines[node.lineno - 1][: node.col_offset], lines[node.end_lineno - 1][node.end_col_offset :]
    lines[node.lineno - 1 : node.end_lineno] = [first + last] + [b""] * (node.end_lineno - node.lineno)


@cache
def imported_files(path: Path) -> tuple[Path, ...]:
    """Files of the package that a Python file's import statements name, wherever they stand, with their packages.

    Raises:
        ValueError: an import is relative.
    """
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            if node.level or not node.module:
                raise ValueError(f"{path}:{node.lineno}: name the module in full")
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
    """Files of a package that are no modules, and those of folders in it that are no packages."""
    found = [path for path in folder.iterdir() if path.is_file() and path.suffix not in (".py", ".pyc", ".typed")]
    for path in folder.iterdir():
        if path.is_dir() and path.name != "__pycache__" and not (path / "__init__.py").is_file():
            found += [file for file in path.rglob("*") if file.is_file()]
    kept = (path for path in found if not path.name.startswith(".") and not path.name.endswith("~"))  # editors leave
    return tuple(sorted(kept))
