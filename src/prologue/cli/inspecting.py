"""`prologue inspect`: how a generated file was made, read back from it."""

import argparse
import json
from pathlib import Path

from prologue.cli.commands import Commands, add_command

EXAMPLES = """\
  prologue inspect samples.png               model, class, seed and settings of a picture
  prologue inspect samples.npz --json"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "inspect", "tell how a generated picture or npz was made", EXAMPLES)
    parser.add_argument("file", type=Path, help="a picture or npz that this project wrote")
    parser.add_argument("--json", action="store_true", help="print the recipe as JSON")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    """Print the recipe. Raises PrologueError for a file that carries none."""
    from prologue.core.recipe import read_recipe

    recipe, source = read_recipe(given.file)
    if given.json:
        print(json.dumps(recipe | ({"digital_source_type": source} if source else {})))
        return
    for key, value in recipe.items():
        plain = isinstance(value, str) and value.isprintable()  # else escapes of a stranger's file reach the terminal
        print(f"{key if key.isprintable() else json.dumps(key)}: {value if plain else json.dumps(value)}")
    if source:
        print(f"digital source type: {source}")
