"""Where a generator is found: this project's last run, an exported folder, a published one, or the one that ships."""

import sys
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from prologue.core.errors import PrologueError
from prologue.core.files import read_json
from prologue.core.params import GuidedRunParams, Precision, Section
from prologue.core.params_file import load_params
from prologue.core.runtime import start_accelerator
from prologue.generator.generator import Generator
from prologue.interop import published
from prologue.measures.recorded import read_metrics
from prologue.models.saved import load_ar, load_tokenizer
from prologue.sampling.adopted import read_adopted, with_adopted

SHIPPED = "small"  # its name on the command line
CONFIG = "config.json"
METRICS = Path("reports/metrics")  # of a project
PLAIN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "guidance": 1.0, "schedule": "constant", "power": 1.0}
POWERS = {"2d": 1.5, "1d": 1.75}  # of the paper's guidance of visual tokens without a prologue (Tab. A5), by layout
POWER = 0.25  # with one; the paper has 0.2 to 0.25 by size


class GeneratorConfig(Section):
    """`config.json` of an exported folder."""

    format: Literal["prologue"]
    name: str
    classes: list[str]
    cfg: GuidedRunParams
    precision: Precision = "auto"


def load_generator(model: str | None = None) -> Generator:
    """The generator of a folder: an exported one, a project of ours, or the authors' published one.

    It is on this machine's GPU where there is one. None is the project in the working directory once it has trained,
    else the one that ships, which `small` names too.

    Raises:
        PrologueError: the folder is none of these, or holds half of one.
    """
    generator = _found(model)
    device = start_accelerator().device
    generator.tokenizer.to(device)
    generator.ar.to(device)
    return generator


def _found(model: str | None) -> Generator:
    if model is None and not Path("models/ar").is_dir():
        print(f"there is no models/ar here; this is the small model that ships, `{SHIPPED}`", file=sys.stderr)
        model = SHIPPED
    if model == SHIPPED:
        return replace(_exported(shipped_folder()), ships=True)
    folder = Path(model or ".")
    if not folder.is_dir():
        raise PrologueError(f"{folder} is no folder: give a project, an exported or a published model, or `{SHIPPED}`")
    if (folder / "models" / "ar").is_dir():
        return _of_project(folder)
    if folder.resolve().name == "models" and (folder / "ar").is_dir():
        return _of_project(folder.resolve().parent)
    if (folder / CONFIG).is_file():
        return _exported(folder)
    if (folder / "tokenizer").is_dir():
        return _published(folder)
    raise PrologueError(
        f"{folder} holds no model: neither models/ar of a project (run `dvc repro` there), nor {CONFIG} of an export, "
        "nor tokenizer/ and ar/ of a published checkpoint"
    )


def shipped_folder() -> Path:
    """The folder of the small model that is part of the package."""
    return Path(str(files("prologue.generator") / SHIPPED))


def _exported(folder: Path) -> Generator:
    try:
        config = GeneratorConfig.model_validate(read_json(folder / CONFIG))
    except (ValidationError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise PrologueError(f"{folder / CONFIG} describes no exported model, which has an AR model: {why}") from None
    tokenizer, ar = load_tokenizer(folder / "tokenizer"), load_ar(folder / "ar")
    generator = Generator(
        config.name, tokenizer, ar, tuple(config.classes), config.cfg, config.precision, export=folder
    )
    return _checked(generator, folder)


def _of_project(folder: Path) -> Generator:
    """The models of the last run of a project, sampled as its samples are."""
    sampling, sweep = load_params(folder / "params.yaml").sampling, folder / "data" / "sweep"
    if sweep.is_dir():
        sampling = with_adopted(sampling, read_adopted(sweep))
    else:
        print(
            f"the stage sweep has not run in {folder.resolve()}: images are drawn as params.yaml says", file=sys.stderr
        )
    manifest = folder / "data" / "tokens" / "manifest.json"
    if not manifest.is_file():
        raise PrologueError(f"{manifest} is missing: run `dvc repro` in {folder.resolve()}")
    models = folder / "models"
    classes = [str(name) for name in read_json(manifest)["classes"]]
    tokenizer, ar = load_tokenizer(models / "attached"), load_ar(models / "ar")
    name = folder.resolve().name
    strength = sampling.watermark.strength
    settings = (sampling.cfg, sampling.precision)
    generator = Generator(name, tokenizer, ar, tuple(classes), *settings, project=folder, watermark_strength=strength)
    drawn_from = read_metrics(folder / METRICS).get("samples", {}).get("weights_sha256")
    if drawn_from not in (None, generator.weights_sha256):
        print(
            f"warning: {models} is not what the last samples were drawn from; unless both its models are of one run, "
            f"what it draws means nothing: `dvc repro` in {folder.resolve()} brings them together",
            file=sys.stderr,
        )
    return _checked(generator, models)


def _checked(generator: Generator, folder: Path) -> Generator:
    """The generator. Raises PrologueError where its parts do not belong together."""
    if generator.tokenizer.vocabulary(len(generator.classes)) != generator.ar.vocabulary:
        raise PrologueError(f"{folder}: tokenizer and AR model do not belong together, or have other classes")
    return generator


def _published(folder: Path) -> Generator:
    """A published model: it tells neither the names of its classes nor how to sample it.

    That is without guidance, which rises as the paper's does where it is asked for.
    """
    tokenizer = published.load_tokenizer(folder)
    ar = published.load_ar(folder, tokenizer)
    classes = tuple(str(label) for label in range(ar.vocabulary.classes))
    power = POWER if tokenizer.config.prologue else POWERS[tokenizer.config.tokenizer.layout]
    visual = PLAIN | {"schedule": "cosine", "power": power}
    cfg = GuidedRunParams.model_validate({"prologue": PLAIN, "visual": visual})
    return Generator(folder.resolve().name, tokenizer, ar, classes, cfg)
