"""`prologue export`: the models of the last run as one folder that goes anywhere."""

import argparse
import shlex
from pathlib import Path

from prologue.cli.commands import Commands, add_command
from prologue.core.errors import PrologueError

EXAMPLES = """\
  prologue export ~/my-model                              equal to the bit when it is loaded again
  prologue export src/prologue/generator/small --dtype bf16 --name small    what made the model that ships"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "export", "write a model as one folder that the other commands read", EXAMPLES)
    parser.add_argument("output", type=Path, help="the folder; an earlier export there is replaced")
    parser.add_argument("--model", help="as MODEL of `prologue sample`")
    parser.add_argument("--name", help="what its users see (default: the model's)")
    parser.add_argument(
        "--push", metavar="USER/NAME", help="also upload it to the Hugging Face Hub, with your own token"
    )
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32", help="of the weights (default: fp32)")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    """Write the folder. Raises PrologueError where there is no model, or where something else lies there."""
    from prologue.generator.export import export, push  # these need torch, which takes seconds to load
    from prologue.generator.folders import load_generator
    from prologue.sampling.images import DTYPES

    generator = load_generator(given.model)
    if generator.ships and given.model is None:
        raise PrologueError("there is no models/ar here to export: run `dvc repro`, or give --model")
    export(generator, given.output, DTYPES[given.dtype], given.name)
    megabytes = sum(file.stat().st_size for file in given.output.rglob("*") if file.is_file()) / 1e6
    print(f"{given.output}: {megabytes:.1f} MB; `prologue sample {shlex.quote(str(given.output))}` draws from it")
    if given.push:
        print(f"uploaded to {push(given.output, given.push)}, private if it is new")
