"""The command line as people meet it: every command shows examples, and every example is understood."""

import re
import shlex
from types import ModuleType

import pytest

from prologue.cli.main import COMMANDS, make_parser


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
