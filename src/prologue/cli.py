"""The `prologue` command: what DVC does not do itself."""

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from prologue.errors import PrologueError
from prologue.files import write_json
from prologue.launch import is_main_process
from prologue.params import load_params
from prologue.report.metrics import flat
from prologue.variants import apply_overrides, experiment_flags, load_variants

METRICS = Path("reports/metrics")
REPORT = Path("reports/index.html")
COMPARISONS = Path("reports/comparisons")
IMAGENET_CLASSES = 1000


def main() -> None:
    """Parse the command line and run one command; errors for the user end with status 1."""
    parser = argparse.ArgumentParser(prog="prologue", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    variant = commands.add_parser("variant", help="print named overrides as flags for `dvc exp run`")
    variant.add_argument("names", nargs="+", help="variants of variants/*.yaml; the last wins")
    variant.set_defaults(run=lambda given: print(" ".join(experiment_flags(load_variants(given.names)))))

    imports = commands.add_parser("import", help="print the flags for `dvc exp run` that import a checkpoint")
    imports.add_argument("folder", type=Path, help="of a published checkpoint, a model of ours, or a diffusers VQModel")
    imports.set_defaults(run=lambda given: print_import(given.folder))

    describe = commands.add_parser("describe", help="print parts, parameters, FLOPs, tokens and bits per pixel")
    describe.add_argument("names", nargs="*", help="variants on top of params.yaml")
    describe.add_argument("--classes", type=int, default=IMAGENET_CLASSES, help="of the dataset (default: %(default)s)")
    describe.set_defaults(run=lambda given: print_description(given.names, given.classes))

    watch = commands.add_parser("watch", help="keep a page of the curves of running trainings")
    watch.add_argument("--seconds", type=int, default=10, help="between two versions (default: %(default)s)")
    watch.set_defaults(run=lambda given: watch_curves(given.seconds))

    evaluate = commands.add_parser("evaluate", help="measure any npz or folder of images against real ones")
    evaluate.add_argument("samples", type=Path, help="npz with arr_0 (uint8 N, H, W, 3), or a folder of images")
    evaluate.add_argument("--reference", type=Path, help="the same, or ADM's statistics (default: data/reference)")
    evaluate.add_argument(
        "--extractor", choices=("lite2", "inception"), help="default: Inception where its weights are"
    )
    evaluate.add_argument("--size", type=int, help="px to which images of folders are cropped (default: as they are)")
    evaluate.add_argument("--batch", type=int, default=32, help="images at once (default: %(default)s)")
    evaluate.add_argument("--output", type=Path, help="also write the metrics to this JSON file")
    evaluate.set_defaults(run=print_evaluation)

    study = commands.add_parser("study", help="run a table or figure of the paper as experiments")
    study.add_argument("name", help="of a file in studies/")
    study.add_argument("--scale", default="default", help="smoke, default or imagenet (default: %(default)s)")
    study.add_argument("--plan", action="store_true", help="only show what would run")
    study.add_argument("--jobs", type=int, default=1, help="experiments at once (default: %(default)s)")
    study.set_defaults(run=lambda given: run_study(given.name, given.scale, given.plan, given.jobs))

    compare = commands.add_parser("compare", help="write a page that compares two experiments, commits or branches")
    compare.add_argument("first", help="anything that DVC or git resolves")
    compare.add_argument("second", nargs="?", default="workspace", help="the same (default: the %(default)s)")
    compare.add_argument("--images", type=int, default=20, help="samples of each run shown (default: %(default)s)")
    compare.set_defaults(run=lambda given: write_comparison(given.first, given.second, given.images))

    summary = commands.add_parser("summary", help="print the metrics of the last run and where its report is")
    summary.set_defaults(run=lambda given: print_summary())

    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except PrologueError as error:
        print(f"prologue: {error}", file=sys.stderr)
        sys.exit(1)


def print_import(folder: Path) -> None:
    """Print the overrides that import a folder. Raises PrologueError for one that cannot be used."""
    from prologue.interop.sources import import_params  # needs torch, which takes seconds to load

    params = load_params()
    overrides = import_params(folder, params.data.image_size, params.tokenizer.pixels)
    print(" ".join(experiment_flags(overrides)))


def watch_curves(seconds: int) -> None:
    """Keep a page of training curves up to date until Ctrl-C. Raises PrologueError where nothing was trained."""
    from prologue.watch import watch  # needs torch, which takes seconds to load

    watch(seconds)


def print_evaluation(given: argparse.Namespace) -> None:
    """Print and write the metrics of samples. Raises PrologueError for what cannot be measured."""
    from prologue.evaluation.evaluate import evaluate  # needs torch, which takes seconds to load

    metrics = evaluate(given.samples, given.reference, given.extractor, given.size, given.batch)
    if not is_main_process():
        return
    table = Table("metric", "value")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.5g}" if isinstance(value, float) else str(value))
    Console().print(table)
    if given.output:
        write_json(given.output, metrics)


def run_study(name: str, scale: str, plan: bool, jobs: int) -> None:
    """Show the plan of a study, or run it and print where its results are. Raises PrologueError as its parts do."""
    from prologue.studies.study import print_plan, run  # needs DVC, which takes seconds to load

    if plan:
        print_plan(name, scale)
    else:
        run(name, scale, jobs)


def write_comparison(first: str, second: str, images: int) -> None:
    """Write the page that compares two revisions and print its path. Raises PrologueError for an unknown one."""
    from prologue.report.comparison import compare  # needs DVC, which takes seconds to load

    print(compare(first, second, COMPARISONS, images).resolve())


def print_description(names: list[str], classes: int) -> None:
    """Print what params.yaml with variants builds. Raises PrologueError for an unknown variant or bad params."""
    from prologue.describe import describe  # needs torch, which takes seconds to load

    params = apply_overrides(load_variants(names)) if names else load_params()
    described = describe(params, classes)
    table = Table("part", "layers x dim", "parameters", "paper's label", "GFLOPs per image")
    for part in described.parts:
        size = f"{part.size.layers} x {part.size.dim}" if part.size else ""
        table.add_row(part.name, size, f"{part.parameters:,}", part.paper, f"{part.flops / 1e9:.3g}")
    console = Console()
    console.print(table)
    vocabulary = described.vocabulary
    tokens = f"{vocabulary.visual_tokens} visual tokens of {vocabulary.visual_codebook:,} codes"
    if vocabulary.prologue_tokens:
        tokens = (
            f"{vocabulary.prologue_tokens} prologue tokens of {vocabulary.prologue_codebook:,} codes, EOS, {tokens}"
        )
    console.print(f"{params.data.image_size} px, {classes:,} classes: {tokens}; {described.bits_per_pixel:.4f} BPP")
    flops = {part.name: part.flops / 1e9 for part in described.parts}
    console.print(f"Sampling with guidance: {2 * flops['AR'] + flops['decoder']:.3g} GFLOPs per image")
    console.print("Parameters include embeddings and codebooks. FLOPs: one forward pass, two per multiply-add.")


def print_summary() -> None:
    """Print a table of every stage's metrics and the report's path. Raises PrologueError before the first run."""
    files = sorted(METRICS.glob("*.json"))
    if not files:
        raise PrologueError(f"no metrics in {METRICS}: run `dvc repro` first")
    table = Table("stage", "metric", "value")
    for file in files:
        for name, value in flat(json.loads(file.read_text())).items():
            table.add_row(file.stem, name, f"{value:.5g}" if isinstance(value, float) else str(value))
        table.add_section()
    console = Console()
    console.print(table)
    console.print(f"Report: {REPORT.resolve()}", soft_wrap=True)
