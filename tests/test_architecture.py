"""One way through the house: rooms import lower floors only, and code that changes no result counts for none."""

import ast
import shutil
from pathlib import Path

import pytest
from tiny import ROOT

from prologue.core import code
from prologue.core.code import code_digest, code_digests

PACKAGE = ROOT / "src" / "prologue"
FLOORS = (  # from the ground up; docs/architecture.md says what each room is for
    {"core"},
    {"models", "data", "frozen"},
    {"measures"},
    {"tokens"},
    {"sampling", "training", "interop", "figures"},
    {"evaluation", "probe", "generator"},
    {"pipeline"},
    {"studies"},
    {"report", "play"},
    {"cli"},
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def imports(package: Path) -> list[tuple[str, str, str]]:
    """Every import between rooms: the file, its room, the room that it imports."""
    found = []
    for path in sorted(package.rglob("*.py")):
        room, _, _ = path.relative_to(package).as_posix().partition("/")
        for node in ast.walk(ast.parse(path.read_text())):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module] + [f"{node.module}.{name.name}" for name in node.names]
            targets = {name.split(".")[1] for name in names if name.startswith("prologue.")}
            found += [(path.name, room, target) for target in sorted(targets - {room})]
    return found


def wrong_ways(package: Path) -> list[str]:
    return [
        f"{room}/{file} imports {target}"
        for file, room, target in imports(package)
        if FLOOR_OF[target] >= FLOOR_OF[room]
    ]


def test_every_room_imports_rooms_of_lower_floors_only() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == FLOOR_OF.keys()
    assert wrong_ways(PACKAGE) == []


@pytest.mark.parametrize(
    ("module", "line", "complaint"),
    [
        ("training/loop.py", "from prologue.figures.grids import image_grid", "training/loop.py imports figures"),
        ("core/files.py", "import prologue.report.pages", "core/files.py imports report"),
        ("data/order.py", "def later():\n    from prologue import models", "data/order.py imports models"),
    ],
)
def test_an_upward_import_is_found(module: str, line: str, complaint: str, tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "prologue")
    with (tmp_path / "prologue" / module).open("a") as file:
        file.write(f"\n{line}\n")
    assert wrong_ways(tmp_path / "prologue") == [complaint]


def test_nothing_but_code_counts(tmp_path: Path) -> None:
    source = (PACKAGE / "models" / "quantizers.py").read_text()

    def digest(changed: str) -> str:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.py"
        path.write_text(changed)
        return code_digest(path)

    plain, docstring = digest(source), '"""Number of codes."""'
    assert docstring in source
    assert digest("# a comment\n" + source.replace("import math\n", "import math  # another\n\n\n")) == plain
    assert digest(source.replace(docstring, '"""How many codes\nthere are."""')) == plain
    assert digest(source.replace("std=1 / math.sqrt(code_dim)", "std=2 / math.sqrt(code_dim)")) != plain
    assert digest(source.replace(docstring, f'{docstring}\n        x = "# no comment"')) != plain
    assert digest(source.replace(docstring, f"{docstring}; math.pi = 3")) != plain  # beside a docstring
    assert digest('text = """a\n\nb"""\n') != digest('text = """a\nb"""\n')  # a blank line within a string
    assert digest('text = """a \nb"""\n') != digest('text = """a\nb"""\n')


def test_a_relative_import_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("from . import neighbour\n")
    with pytest.raises(ValueError, match=r"module.py:1: name the module in full"):
        code_digests(path)


def test_params_are_declared_and_nothing_is_computed_of_them_beside() -> None:
    """core/params.py is in no digest, so it may hold what checks values, and nothing that makes others."""
    tree = ast.parse((PACKAGE / "core" / "params.py").read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    decorated = [ast.unparse(name) for node in functions for name in node.decorator_list]
    assert [node.name for node in functions] == ["_check_duration", "sections_fit_together"]
    assert decorated == ["model_validator(mode='after')"]


def test_a_training_follows_from_what_computes_and_not_from_what_draws_or_reports() -> None:
    for stage in ("tokenizer", "ar"):
        names = code_digests(ROOT / "stages" / f"{stage}.py").keys()
        assert {f"{stage}.py", "prologue/training/loop.py", "prologue/models/transformer.py"} <= names
        rooms = {name.split("/")[1] for name in names if "/" in name}
        assert not rooms & {"figures", "report", "studies", "evaluation", "cli"}
    assert "prologue/sampling/decoding.py" not in code_digests(ROOT / "stages" / "ar.py")
    assert "prologue/report/templates/report.html" in code_digests(ROOT / "stages" / "report.py")
    assert not any(name.startswith("prologue/models") for name in code_digests(ROOT / "stages" / "shards.py"))


def test_files_aside_exist() -> None:
    assert all(path.is_file() for path in code.ASIDE)
