"""A generator as one folder that goes anywhere, in the layout of the Hugging Face Hub."""

import shutil
from importlib.metadata import distribution
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from prologue.core.errors import PrologueError
from prologue.core.files import check_replaceable, read_json, replacing, sha256, write_json
from prologue.generator.card import is_mit, model_card, record_of
from prologue.generator.folders import CONFIG, METRICS, GeneratorConfig
from prologue.generator.generator import Generator
from prologue.models.saved import save_model

MANIFEST = "manifest.json"
FIGURES = ("samples/samples_cfg", "samples/held_prologue", "reconstruction/reconstructions")  # of reports/figures


def export(generator: Generator, output: Path, dtype: torch.dtype, name: str | None = None) -> None:
    """Write a generator to a folder that `load_generator` reads, equal to the bit in fp32.

    It holds tokenizer/ and ar/ with weights as `dtype`, config.json, the card README.md, params.yaml, metrics.json and
    the figures of the run, LICENSE where that is this project's, and manifest.json, the SHA-256 of each. `name`
    takes the place of its own.

    Raises PrologueError where something else lies there.
    """
    check_replaceable(output, _own_files(output))
    config = GeneratorConfig(
        format="prologue",
        name=name or generator.name,
        classes=list(generator.classes),
        cfg=generator.cfg,
        precision=generator.precision,
    )
    with replacing(output) as folder:
        save_model(folder / "tokenizer", generator.tokenizer)
        save_model(folder / "ar", generator.ar)
        for part in ("tokenizer", "ar"):
            _round(folder / part / "model.safetensors", dtype)
        write_json(folder / CONFIG, config.model_dump())
        project = record_of(generator)
        figures = _copy_figures(project, folder / "figures")
        _copy_record(project, folder)
        if generator.export is not None:
            figures = _copy_all(generator.export, folder)
        if is_mit(project):
            licence = distribution("prologue").read_text("licenses/LICENSE")
            assert licence, "this project is installed without its licence"
            (folder / "LICENSE").write_text(licence)
        mit = (folder / "LICENSE").is_file()
        card = model_card(generator, project, dtype, config.name, figures, mit)
        (folder / "README.md").write_text(card, encoding="utf-8", errors="backslashreplace")  # names may be any bytes
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        write_json(folder / MANIFEST, {path.relative_to(folder).as_posix(): sha256(path) for path in files})


def _own_files(folder: Path) -> set[str]:
    """Files of a folder that an earlier export wrote and nobody has changed since."""
    try:
        hashes = {name: known for name, known in read_json(folder / MANIFEST).items() if (folder / name).is_file()}
        GeneratorConfig.model_validate(read_json(folder / CONFIG))
        return {MANIFEST} | {name for name, known in hashes.items() if sha256(folder / name) == known}
    except (OSError, ValueError, AttributeError):  # it is none, and no manifest of ours
        return set()


def push(folder: Path, repository: str) -> str:
    """Upload an exported folder to the Hub, with the token of `hf auth login`, as a private repository if it is new.

    Returns its address. Raises PrologueError for what the Hub says against it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, HTTPError, LocalTokenNotFoundError  # type: ignore[attr-defined]

    api = HfApi()
    try:
        address = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder)
    except (HTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
        raise PrologueError(f"{repository} was not uploaded: {error}; `hf auth login` sets your token") from None
    return str(address)


def _round(weights: Path, dtype: torch.dtype) -> None:
    """Store the floats of a weights file as another dtype."""
    if dtype == torch.float32:
        return
    tensors = load_file(weights).items()
    save_file({name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors}, weights)


def _copy_record(project: Path | None, output: Path) -> None:
    """Copy the params of a run, and all that its stages measured as one file."""
    if project is None:
        return
    shutil.copyfile(project / "params.yaml", output / "params.yaml")
    stages = sorted((project / METRICS).glob("*.json"))
    write_json(output / "metrics.json", {path.stem: read_json(path) for path in stages})


def _copy_all(export: Path, output: Path) -> list[str]:
    """Copy the record, figures and licence of an earlier export, which go with its weights; returns the figures."""
    for name in ("params.yaml", "metrics.json", "LICENSE"):
        if (export / name).is_file():
            shutil.copyfile(export / name, output / name)
    if (export / "figures").is_dir():
        shutil.copytree(export / "figures", output / "figures")
    return sorted(path.name for path in output.glob("figures/*.png"))


def _copy_figures(project: Path | None, output: Path) -> list[str]:
    """Copy what the run drew; returns the names."""
    sources = [] if project is None else [project / "reports" / "figures" / f"{figure}.png" for figure in FIGURES]
    found = [path for path in sources if path.is_file()]
    if found:
        output.mkdir()
    for path in found:
        shutil.copyfile(path, output / path.name)
    return [path.name for path in found]
