"""`prologue import`: the flags for `dvc exp run` that import a checkpoint."""

import argparse
import shlex
import sys
from pathlib import Path

from prologue.cli.commands import Commands, add_command, positive
from prologue.core.params_file import load_params
from prologue.core.variants import experiment_flags

EXAMPLES = """\
  prologue import path/to/vq_ds16_c2i.pt       prints what was found, and flags
  eval "dvc exp run $(prologue import path/to/folder)"   runs with what was found"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "import", "print the flags for `dvc exp run` that import a checkpoint", EXAMPLES)
    parser.add_argument("path", type=Path, help="a published checkpoint, a model of ours, or any project's tokenizer")
    parser.add_argument(
        "--image-size", type=positive, help="px (default: what the model tells, else 256; of a VQModel params.yaml's)"
    )
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    """Print the flags, and to the terminal what was found. Raises PrologueError for what cannot be used."""
    from prologue.interop.imported import import_params, import_tokenizer  # need torch: seconds to load
    from prologue.interop.recognised import in_words

    params = load_params()
    found = import_tokenizer(given.path, given.image_size, params.tokenizer.pixels, params.data.image_size)
    print(in_words(found.source, found.tokenizer, found.files), file=sys.stderr)
    print(shlex.join(experiment_flags(import_params(found))))
