"""`prologue evaluate`: samples of any program against images, statistics or this pipeline's reference."""

import hashlib
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from platformdirs import user_cache_path
from safetensors import SafetensorError

from prologue.core.errors import PrologueError
from prologue.core.files import read_json, sha256
from prologue.core.npz import DAMAGED, array_names
from prologue.core.runtime import start_accelerator
from prologue.core.work import origin_of
from prologue.evaluation.features import extract
from prologue.evaluation.folder_images import FolderImages
from prologue.evaluation.generation import compare_with_reference, score
from prologue.evaluation.image_sets import IMAGES_KEY, NpzImages
from prologue.evaluation.reference import (
    PROTOCOL,
    Reference,
    load_reference,
    measure_reference,
    save_reference,
)
from prologue.frozen.extractor import Extractor
from prologue.frozen.weights import WEIGHTS
from prologue.measures.fidelity import Statistics

PIPELINE = Path("data/reference")  # the reference where none is given
SPATIAL = "mu_s"  # an array that ADM's files have beside mu and sigma, and no other project's
NEIGHBOURS = 3  # of precision and recall, as in ADM's evaluation


def evaluate(
    samples: Path, reference: Path | None, extractor: str | None, size: int | None, batch: int
) -> dict[str, Any]:
    """Measure a set of samples.

    Args:
        samples: an npz with arr_0, uint8 (N, H, W, 3), or a folder of images of any depth.
        reference: the same of real images, an npz with ADM's statistics mu and sigma, or a folder that the stage
            `reference` wrote. None: data/reference where it exists, else the inception score alone.
        extractor: lite2 or inception. None: that of the pipeline's reference; Inception where its weights are; lite2.
        size: images of folders are centre-cropped to so many px. None: to squares of their own shorter side.
        batch: images at once.

    Returns:
        The metrics of `compare_with_reference` (the distance is `fid` or fd_EXTRACTOR), and the protocol; `unusable`,
        the number of files of the samples that were left out, is there where there are any.

    Raises:
        PrologueError: something is missing, or cannot be measured. Both sides are opened before either is measured.
    """
    accelerator = start_accelerator()
    if reference is None and (PIPELINE / PROTOCOL).is_file():
        reference = PIPELINE
    network = Extractor(extractor or _extractor_for(reference), accelerator.device)
    images = _open(samples, size)
    compared = None if reference is None else _reference(reference, network, size, batch, accelerator)
    features = extract(network, images, batch, accelerator)
    protocol: dict[str, Any] = {**network.protocol, "samples": str(samples), "crop": _crop(size)}
    if isinstance(images, FolderImages) and accelerator.is_main_process:
        _warn(images)
    if len(features.pool) < len(images):
        protocol["unusable"] = len(images) - len(features.pool)
    if compared is None:
        return {**score(features, network.name), "images": len(features.pool), **protocol}
    size_of_reference = compared.protocol.get("image_size", images.side)  # statistics alone do not tell it
    if images.side != size_of_reference and accelerator.is_main_process:
        print(
            f"warning: the samples have {images.side} px and the reference {size_of_reference} px, so that their "
            "distance is also one of sizes; --size crops samples of a folder",
            file=sys.stderr,
        )
    metrics = compare_with_reference(features, compared, network.name, NEIGHBOURS, "fd")
    return {
        **metrics,
        **protocol,
        "reference": str(reference),
        **{f"reference_{key}": compared.protocol[key] for key in ("images", "statistics") if key in compared.protocol},
        "neighbours": NEIGHBOURS,
    }


def _warn(images: FolderImages) -> None:
    """Say on stderr what a user should know of the files of a folder."""
    for text in images.warnings():
        print(f"warning: {text}", file=sys.stderr)


def _extractor_for(reference: Path | None) -> str:
    if reference is not None and (reference / PROTOCOL).is_file():
        return str(read_json(reference / PROTOCOL)["extractor"])
    return "inception" if WEIGHTS["inception"].path().is_file() else "lite2"


def _crop(size: int | None) -> str:
    return f"centre, {size} px" if size else "centre, own size"


def _open(path: Path, size: int | None) -> NpzImages | FolderImages:
    """The images of an npz file or a folder. Raises PrologueError where there is nothing that can be measured."""
    if path.is_dir():
        return FolderImages(path, size)
    if not path.is_file():
        raise PrologueError(f"{path} not found: expected an npz file or a folder of images")
    images = NpzImages(path)
    if size is not None and images.shape[1:3] != (size, size):
        raise PrologueError(f"{path} holds {images.shape[2]} x {images.shape[1]} px images, not {size} x {size}")
    return images


def _reference(path: Path, network: Extractor, size: int | None, batch: int, accelerator: Accelerator) -> Reference:
    """The reference at a path: the pipeline's own, ADM's statistics, or that of its images, measured once."""
    if (path / PROTOCOL).is_file():
        return load_reference(path, network.name)
    given = _given_statistics(path) if path.is_file() else None
    if given is None or network.name != "inception":
        if given and IMAGES_KEY not in array_names(path):
            raise PrologueError(
                f"{path} holds statistics of Inception and no images, so {network.name} has nothing to compare with: "
                "use --extractor inception"
            )
        return _measured_once(path, network, size, batch, accelerator)
    arrays = array_names(path)
    if not {IMAGES_KEY, SPATIAL} & set(arrays) and accelerator.is_main_process:
        print(
            f"warning: {path} holds mu and sigma alone, and nothing says of what network and resampling they are; "
            "with those of clean-fid or pytorch-fid, for example, the distance is not that of ADM's evaluation",
            file=sys.stderr,
        )
    if IMAGES_KEY not in arrays:
        return Reference(
            given, None, {**network.protocol, "images": "statistics alone, made elsewhere", "coloured": False}
        )
    measured = _measured_once(path, network, size, batch, accelerator)
    protocol = measured.protocol | {"statistics": "given in the file, not measured of its images"}
    return Reference(given, measured.manifold, protocol)


def _given_statistics(path: Path) -> Statistics | None:
    """mu and sigma of an npz, where it has them."""
    if not zipfile.is_zipfile(path):
        return None
    try:
        with np.load(path, allow_pickle=False) as content:
            if not {"mu", "sigma"} <= set(content.files):
                return None
            return Statistics(content["mu"].astype(np.float64), content["sigma"].astype(np.float64))
    except DAMAGED as error:
        raise PrologueError(f"{path} is no npz of images or statistics ({error})") from None


def _measured_once(path: Path, network: Extractor, size: int | None, batch: int, accelerator: Accelerator) -> Reference:
    """The reference of a set of images, kept in the user's cache by the content of the images."""
    images = _open(path, size)
    identity = {**network.protocol, "content": content_hash(path), "size": size}
    folder = user_cache_path("prologue") / "references" / origin_of(identity, [], __file__).key
    if not all(gather_object([(folder / PROTOCOL).is_file()])):  # machines may not share the cache
        measured = measure_reference(network, images, batch, identity, accelerator)
        if accelerator.is_main_process:
            measured.protocol["image_size"] = images.side  # of a folder it is known once its files are read
            if isinstance(images, FolderImages):
                _warn(images)
            try:
                save_reference(folder, measured)
            except (OSError, SafetensorError) as error:  # another command may write the same
                print(
                    f"warning: {folder} cannot be written, so it is measured again next time: {error}", file=sys.stderr
                )
        accelerator.wait_for_everyone()
        return measured
    return load_reference(folder, network.name)


def content_hash(path: Path) -> str:
    """SHA-256 of an npz file, or of all image files of a folder in the order in which they are read."""
    if path.is_file():
        return sha256(path)
    hashes = [sha256(file) for file in FolderImages(path, None).paths]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()
