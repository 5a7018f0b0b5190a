"""params.yaml and its variants: what is wrong is refused before any work, by name."""

import ast
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml
from dvc.utils.hydra import apply_overrides as write_overrides
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import ROOT

from prologue.core.dotted import flat
from prologue.core.files import read_yaml
from prologue.core.params_file import ParamsError, load_params
from prologue.core.variants import apply_overrides, experiment_flags, load_variants, read_variants

VARIANTS = sorted(name for path in (ROOT / "variants").glob("*.yaml") for name in read_yaml(path))
STAGES = sorted(path.stem for path in (ROOT / "stages").glob("*.py"))


def write_params(folder: Path, key: str, value: object) -> Path:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    section = values
    *parents, last = key.split(".")
    for parent in parents:
        section = section[parent]
    section[last] = value
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("prologue.token", 8, r"prologue\.token: unknown key; did you mean tokens\?"),
        ("smapling", {}, r"smapling: unknown key; did you mean sampling\?"),
        ("stage1.discriminator.colour", 1, r"stage1\.discriminator\.colour: unknown key; allowed here: layers, width"),
        ("prologue.tau", 0, r"prologue\.tau: Input should be greater than 0 \(got 0\)"),
        ("prologue.mode", "jiont", r"prologue\.mode: Input should be 'joint', .* \(got 'jiont'\)"),
        ("ar.dim", 100, r"ar\.dim: Input should be a multiple of 64"),
        ("data.image_size", 8, r"data\.image_size: 8 is less than the 11 px that SSIM needs"),
        ("stage1.discriminator.layers", 4, r"discriminator\.layers: 4 need images of 48 px or more, and .* is 32"),
        ("tokenizer.patch", 5, r"tokenizer\.patch: 5 does not divide data\.image_size 32"),
        ("stage1.steps", "two epochs", r"stage1\.steps: Input should be a number of steps, .* \(got 'two epochs'\)"),
        ("stage1.lr", "fast", r"stage1\.lr: Input should be a valid number"),
        ("tokenizer.codebook", 65537, r"tokenizer\.codebook: Input should be less than or equal to 65536"),
        ("evaluation.neighbours", 5000, r"sampling\.images: .* must be more than evaluation\.neighbours, 5000"),
        ("probe.mae.batch", 1, r"probe\.mae\.batch: Input should be greater than or equal to 2"),
    ],
)
def test_bad_params_are_refused_by_name(key: str, value: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=message):
        load_params(write_params(tmp_path, key, value))


def test_a_tokenizer_that_nothing_would_train_is_refused() -> None:
    nothing: dict[str, object] = {"stage1.l1": 0, "stage1.perceptual.lite0": 0, "stage1.adversarial": 0}
    with pytest.raises(ParamsError, match=r"l1, perceptual or adversarial must be above 0"):
        apply_overrides(nothing, ROOT / "params.yaml")


@pytest.mark.parametrize("key", ["tokenizer.codebook", "prologue.codebook"])
def test_a_codebook_has_as_many_codes_as_uint16_has_ids_whatever_the_other_has(key: str, tmp_path: Path) -> None:
    assert flat(load_params(write_params(tmp_path, key, 65536)).model_dump())[key] == 65536


def test_a_missing_key_and_a_missing_file_are_named(tmp_path: Path) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    del values["ar"]["steps"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ParamsError, match=r"ar\.steps: missing"):
        load_params(tmp_path / "params.yaml")
    with pytest.raises(ParamsError, match="run from the root"):
        load_params(tmp_path / "other.yaml")


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_validates_first(stage: str) -> None:
    """A stage script does nothing but hand its work to run_stage, which validates before it works."""
    script = (ROOT / "stages" / f"{stage}.py").read_text()
    *before, last = ast.parse(script).body
    assert all(isinstance(node, ast.ImportFrom) for node in before[1:])  # after the docstring
    call = last.body[0] if isinstance(last, ast.If) else last
    assert ast.unparse(call).startswith(f"run_stage('{stage}', lambda ")
    assert ("processes='one'" in ast.unparse(call)) == (stage in ("plan", "source", "report"))
    assert len(script.splitlines()) <= 40


def test_a_stage_with_a_misspelt_param_stops_before_it_works(tmp_path: Path) -> None:
    write_params(tmp_path, "data.sorce", "x")
    script = ROOT / "stages" / "shards.py"
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "data.sorce: unknown key; did you mean source?" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_every_variant_fits_the_params(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    names = read_variants()
    assert names
    for name in names:
        assert load_variants([name])
    flags = experiment_flags(load_variants(["smoke", "post"]))
    assert "prologue.mode=post" in flags
    assert "stage1.steps=30" in flags


def test_every_key_has_a_comment_a_commented_section_or_a_commented_twin() -> None:
    """params.yaml documents itself: other keys have a namesake that is explained elsewhere."""
    explained = {key for key, _ in comments((ROOT / "params.yaml").read_text())}
    twins = {key.rpartition(".")[2] for key in explained}
    for key in flat(read_yaml(ROOT / "params.yaml")):
        section, _, name = key.rpartition(".")
        assert section in explained or name in {*twins, "layers"}, key


LEAVES = {
    key: value for key, value in flat(read_yaml(ROOT / "params.yaml")).items() if key not in ("data.source", "seed")
}
LOOKING_LIKE_SOMETHING_ELSE = "yes no on null ~ true 1e3 0x10 12:30 1_000 010 - cat Größe 猫"
TEXTS = st.sampled_from(
    [
        *LOOKING_LIKE_SOMETHING_ELSE.split(),
        *("a b", "it's", "a, b", "[x]", "# no comment", "key: value", "\\'", "", " padded "),
        *("x" * 200, "two words " * 20),  # longer than the lines that the library writes
    ]
)


def values_for(key: str, value: object) -> st.SearchStrategy[object]:
    """Values of every kind that a key may have."""
    if key.endswith(".classes"):
        numbers = st.integers(1, 9) if key.startswith("data.") else st.none()
        return st.one_of(st.none(), numbers, st.lists(st.one_of(TEXTS, st.integers(0, 99)), max_size=4))
    if key == "sweep.values":
        return st.lists(st.sampled_from([1.0, 1.5, 2.0, 3.75]), max_size=5)
    if key in ("data.train_limit", "data.val_limit"):
        return st.one_of(st.none(), st.integers(10, 10**7))
    if key.endswith(".path"):
        return TEXTS.filter(bool)
    return st.just(value)


OVERRIDES = st.sampled_from(sorted(LEAVES)).flatmap(lambda key: st.tuples(st.just(key), values_for(key, LEAVES[key])))


@settings(max_examples=40, derandomize=True, deadline=None)
@given(steps=st.lists(st.one_of(st.lists(OVERRIDES, min_size=1, max_size=4), st.sampled_from(VARIANTS)), max_size=5))
def test_overrides_leave_a_valid_file_with_the_values_asked_for_and_every_comment_at_its_key(
    steps: list[str | list[tuple[str, object]]],
) -> None:
    """`dvc exp run -S` writes params.yaml by its own library: whatever is asked for, all else stays as it was."""
    before = (ROOT / "params.yaml").read_text()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        path = Path(folder) / "params.yaml"
        path.write_text(before)
        wanted, asked = flat(read_yaml(path)), set[str]()
        for step in steps:
            overrides = load_variants([step]) if isinstance(step, str) else dict(step)
            write_overrides(str(path), experiment_flags(overrides)[1::2])
            wanted |= overrides
            asked |= overrides.keys()
            assert flat(read_yaml(path)) == wanted
        after = path.read_text()
        assert comments(after) == comments(before)
        untouched = [line for line, key in keyed_lines(before) if key not in asked]
        assert untouched == [line for line, key in keyed_lines(after) if key not in asked]
        write_overrides(str(path), [])
        assert path.read_text() == after


def keyed_lines(text: str) -> list[tuple[str, str]]:
    """Each line with the dotted key that it belongs to, as block style shows it; comments and blank lines with none."""
    found, parents = [], [(-1, "")]
    for line in text.splitlines():
        code = line.strip()
        indent = len(line) - len(line.lstrip())
        match = re.match(r"(\w+):( |$)", code)
        if not code or code.startswith("#"):
            found.append((line, ""))
            continue
        if match and not (code.startswith("- ") or indent > parents[-1][0] + 2):
            while parents[-1][0] >= indent:
                parents.pop()
            parents.append((indent, f"{parents[-1][1]}.{match[1]}".lstrip(".")))
        found.append((line, parents[-1][1]))
    return found


def comments(text: str) -> list[tuple[str, str]]:
    """Comments with the key of their line, or of the next one that has a key."""
    found, waiting = [], []
    for line, key in keyed_lines(text):
        code, hash_sign, comment = line.partition(" #") if key else ("", "#", line.strip().removeprefix("#"))
        if not key and line.strip():
            waiting.append(comment)
        elif key:
            found += [(key, text) for text in waiting]
            waiting = []
            if hash_sign and "'" not in code:
                found.append((key, comment))
    return found
