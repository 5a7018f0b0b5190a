"""`prologue import`: the flags for `dvc exp run` that import a checkpoint."""

import argparse
import shlex
from pathlib import Path

from prologue.cli.commands import Commands
from prologue.core.params_file import load_params
from prologue.core.variants import experiment_flags


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("import", help="print the flags for `dvc exp run` that import a checkpoint")
    parser.add_argument("folder", type=Path, help="of a published checkpoint, a model of ours, or a diffusers VQModel")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    """Print the flags. Raises PrologueError for a folder that cannot be used."""
    from prologue.interop.imported import import_params  # needs torch, which takes seconds to load

    params = load_params()
    flags = experiment_flags(import_params(given.folder, params.data.image_size, params.tokenizer.pixels))
    print(shlex.join(flags))
