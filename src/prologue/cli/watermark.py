"""`prologue watermark`: what a watermark of a model is worth and costs."""

import argparse
import shlex
from pathlib import Path

from prologue.cli.commands import Commands, add_command, add_model, positive, seed
from prologue.core.errors import PrologueError
from prologue.core.files import check_writable

EXAMPLES = """\
  prologue watermark                          the model of the project here; then `dvc repro report` shows it
  prologue watermark --strengths 2,4 --images 500 --real 1000"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands, "watermark", "measure how well a watermark of a model is found, and what it costs", EXAMPLES
    )
    add_model(parser)
    parser.add_argument("--strengths", default="1,2,3,4", help="divided by commas (default: %(default)s)")
    parser.add_argument(
        "--images", type=positive, default=2000, help="drawn at each strength and without (default: %(default)s)"
    )
    parser.add_argument("--real", type=positive, default=5000, help="real images (default: %(default)s)")
    parser.add_argument("--seed", type=seed, default=0, help="image i has seed (SEED, i), as in the stage samples")
    parser.add_argument("--output", type=Path, default=Path("reports/watermark"), help="folder (default: %(default)s)")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    """Write numbers, tables and charts. Raises PrologueError for a model without a project."""
    from prologue.generator.folders import load_generator  # these need torch, which takes seconds to load
    from prologue.pipeline.watermark import measure_watermark
    from prologue.report.watermark import write_watermark

    try:
        strengths = [float(strength) for strength in given.strengths.split(",")]
    except ValueError:
        raise PrologueError(f"--strengths {given.strengths}: give numbers, divided by commas") from None
    if not all(0 < strength < float("inf") for strength in strengths):
        raise PrologueError(f"--strengths {given.strengths}: a strength is above 0")
    if len({f"{strength:g}" for strength in strengths}) < len(strengths):
        raise PrologueError(f"--strengths {given.strengths}: give each once")
    check_writable(given.output / "watermark.json")
    found = measure_watermark(load_generator(given.model), strengths, given.images, given.real, given.seed)
    asked = {"strengths": ",".join(found["detection"]), "images": given.images, "real": given.real, "seed": given.seed}
    flags = [word for name, value in asked.items() for word in (f"--{name}", str(value))]
    command = shlex.join(["prologue", "watermark", *([given.model] if given.model else []), *flags])
    path = write_watermark(found, command, given.output)
    print(f"{path.read_text(encoding='utf-8')}\n{path}")
