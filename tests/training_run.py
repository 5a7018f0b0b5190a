"""The training stages, the token cache between them and the linear probe at toy size, in the current directory.

    python training_run.py SHARDS STAGES [KEY=VALUE ...]

STAGES is any of tokenizer, attach, tokens, ar, probe, joined by commas; KEY=VALUE overrides the tiny params. Run as a
process of its own it can be killed, interrupted and launched on several processes.
"""

import faulthandler
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny import tiny_params

from prologue.core.errors import PrologueError
from prologue.core.files import parse_yaml, write_json
from prologue.core.launch import is_main_process
from prologue.core.params import Params
from prologue.pipeline.ar import make_ar
from prologue.pipeline.attach import make_attached
from prologue.pipeline.tokenizer import make_tokenizer
from prologue.probe.run import run_probe
from prologue.tokens.encoding import write_tokens


def run_stages(params: Params, shards: Path, stages: list[str], folder: Path = Path()) -> Path:
    """Run the named stages into `folder`, with the metrics of each; returns the folder."""
    tokenizer, curves = folder / "tokenizer", folder / "curves"
    run: dict[str, Callable[[], dict[str, Any]]] = {
        "tokenizer": lambda: make_tokenizer(params, shards, tokenizer, curves / "tokenizer"),
        "attach": lambda: make_attached(params, tokenizer, shards, folder / "attached", curves / "attach"),
        "tokens": lambda: write_tokens(params, tokenizer, shards, folder / "tokens"),
        "ar": lambda: make_ar(params, tokenizer, folder / "tokens", folder / "ar", curves / "ar"),
        "probe": lambda: run_probe(params, tokenizer, shards, curves / "probe"),
    }
    for stage in stages:
        metrics = run[stage]()
        if is_main_process():
            write_json(folder / "metrics" / f"{stage}.json", metrics)
    return folder


def main() -> None:
    """Run as the command line says; errors meant for the user end the process with their message."""
    faulthandler.dump_traceback_later(200, exit=True)  # where it hangs
    given = (word.partition("=") for word in sys.argv[3:])
    own = {key.replace(".", "__"): parse_yaml(value, key) for key, _, value in given}
    try:
        run_stages(tiny_params(**own), Path(sys.argv[1]), sys.argv[2].split(","))
    except PrologueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
