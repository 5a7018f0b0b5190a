"""Which files of the project a script really imports, found by reading import statements."""

import ast
from pathlib import Path

SOURCE = Path("src")


def import_closure(script: Path, root: Path) -> set[str]:
    """The script and every project file that it imports, directly or not, as paths relative to `root`."""
    found: set[str] = set()
    waiting = [script]
    while waiting:
        path = waiting.pop()
        name = path.relative_to(root).as_posix()
        if name not in found:
            found.add(name)
            waiting += _imports(path, root)
    return found


def _imports(path: Path, root: Path) -> list[Path]:
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            modules |= {name.name for name in node.names}
    files = []
    for module in modules:
        parts = module.split(".")
        for length in range(1, len(parts) + 1):  # importing a module runs its packages too
            base = root.joinpath(SOURCE, *parts[:length])
            files += [file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()]
    return files
