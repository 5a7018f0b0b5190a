"""The command line as people meet it: every command shows examples, and every example is understood."""

import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest
from dvc.cli import DvcParserError, parse_args
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tiny import ROOT

from prologue.cli.main import COMMANDS, main, make_parser
from prologue.core.errors import PrologueError
from prologue.core.files import read_json
from prologue.core.recipe import KEY, read_recipe, save_picture
from prologue.core.variants import load_variants


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__.rpartition(".")[2])
def test_every_example_is_a_command_line_that_is_understood(command: ModuleType) -> None:
    examples = [line.strip() for line in command.EXAMPLES.splitlines()]
    lines = [re.split(r" {2,}", example)[0] for example in examples]
    own = [line for line in lines if line.startswith("prologue ")]
    inner = [found for line in lines for found in re.findall(r"\$\((prologue [^)]*)\)", line)]
    assert own or inner
    for line in own + inner:
        make_parser().parse_args(shlex.split(line)[1:])


def test_what_is_not_understood_ends_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        ("--image many", "many is no whole number above 0"),
        ("--seed -1", "-1 is no whole number from 0"),
    ):
        with pytest.raises(SystemExit) as end:
            make_parser().parse_args(["sample", *words.split()])
        assert end.value.code == 2
        assert said in capsys.readouterr().err


def test_flags_that_could_not_be_made_stop_dvc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`dvc exp run $(prologue variant smok)` would run the default for hours; DVC refuses flags it does not know."""
    monkeypatch.chdir(ROOT)
    for words, status in (
        ("variant smok", 1),
        (f"import {tmp_path}", 1),
        (f"import {tmp_path}/{'x' * 300}", 1),  # the file system's own error
        ("variant", 2),
        ("import a.pt --imagesize 8", 2),
    ):
        monkeypatch.setattr("sys.argv", ["prologue", *words.split()])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == status
        assert capsys.readouterr().out == "--prologue-failed\n"
    monkeypatch.setattr("sys.argv", ["prologue", "variant", "--help"])
    with pytest.raises(SystemExit):
        main()
    assert "--prologue-failed" not in capsys.readouterr().out
    with pytest.raises(DvcParserError):
        parse_args(["exp", "run", "--prologue-failed"])


def test_a_summary_of_the_last_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What `make repro` ends with."""
    monkeypatch.chdir(ROOT)
    psnr = read_json(ROOT / "reports" / "metrics" / "evaluate_reconstruction.json")["psnr"]
    for words, found in ((["summary"], "PSNR, dB"), (["summary", "--all"], "psnr")):
        monkeypatch.setattr("sys.argv", ["prologue", *words])
        main()
        lines = capsys.readouterr().out.splitlines()
        assert any(found in line and f"{psnr:.5g}" in line for line in lines)


def test_what_is_no_yaml_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "variants").mkdir()
    file, params = tmp_path / "variants" / "mine.yaml", tmp_path / "params.yaml"
    for content, said in ((b"a: [", "is not valid YAML"), (b"a: \xe9", "is not valid YAML"), (b"", "must map names")):
        file.write_bytes(content)
        with pytest.raises(PrologueError, match=f"variants/mine.yaml {said}"):
            load_variants(["mine"])
    file.write_text("mine: {seed: 1}")
    for content, said in ((b"a: [", "is not valid YAML"), (b"", "holds no params")):
        params.write_bytes(content)
        with pytest.raises(PrologueError, match=f"params.yaml {said}"):
            load_variants(["mine"])


def test_a_strangers_recipe_reaches_the_terminal_as_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = Image.new("RGB", (8, 8))
    save_picture(picture, tmp_path / "a.png", "png", {"model": "\x1b]0;owned\x07", "seed": 3})
    monkeypatch.setattr("sys.argv", ["prologue", "inspect", str(tmp_path / "a.png")])
    main()
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "seed: 3" in printed
    info = PngInfo()
    info.add_text(KEY, "[" * 100_000)
    picture.save(tmp_path / "b.png", pnginfo=info)
    with pytest.raises(PrologueError, match="carries no recipe"):
        read_recipe(tmp_path / "b.png")
