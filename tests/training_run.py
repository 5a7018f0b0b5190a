"""The training stages, the token cache between them and the linear probe at toy size, in the current directory.

    python training_run.py SHARDS STAGES [KEY=VALUE ...]

STAGES is any of tokenizer, attach, tokens, ar, probe, joined by commas; KEY=VALUE overrides the tiny params. Run as a
process of its own it can be killed, interrupted and launched on several processes.
"""

import sys
from pathlib import Path

import yaml
from conftest import tiny_params

from prologue.data.tokens import write_tokens
from prologue.errors import PrologueError
from prologue.evaluation.probe import run_probe
from prologue.params import Params
from prologue.training.ar import train_ar
from prologue.training.attach import make_attached
from prologue.training.tokenizer import make_tokenizer


def run_stages(params: Params, shards: Path, stages: list[str], folder: Path = Path()) -> Path:
    """Run the named stages into `folder`; returns it."""
    for stage in stages:
        if stage == "tokenizer":
            make_tokenizer(params, shards, folder / "tokenizer", folder / "curves" / "tokenizer")
        elif stage == "attach":
            make_attached(params, folder / "tokenizer", shards, folder / "attached", folder / "curves" / "attach")
        elif stage == "tokens":
            write_tokens(params, folder / "tokenizer", shards, folder / "tokens")
        elif stage == "probe":
            run_probe(params, folder / "tokenizer", shards, folder / "curves" / "probe")
        else:
            train_ar(params, folder / "tokenizer", folder / "tokens", folder / "ar", folder / "curves" / "ar")
    return folder


def main() -> None:
    """Run as the command line says; errors meant for the user end the process with their message."""
    own = {key.replace(".", "__"): yaml.safe_load(value) for key, _, value in (w.partition("=") for w in sys.argv[3:])}
    try:
        run_stages(tiny_params(**own), Path(sys.argv[1]), sys.argv[2].split(","))
    except PrologueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
