"""Photos in, pictures and ids out: the files of the commands that use a generator."""

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from prologue.core.errors import PrologueError
from prologue.core.files import check_file, check_replaceable, replacing
from prologue.core.npz import DAMAGED
from prologue.core.recipe import Recipe, read_recipe, recipe_array, save_picture
from prologue.data.images import open_image, to_rgb
from prologue.data.sources.base import Unusable
from prologue.data.sources.images import image_paths
from prologue.data.transforms import center_crop
from prologue.data.verify import check_image, check_size
from prologue.models.tokenizer import Tokenizer, Tokens
from prologue.models.weights import weights_sha256
from prologue.sampling.images import Pixels

MAX_PIXELS = 100_000_000  # of a photo; larger ones are refused as decompression bombs
BATCH = 256  # photos in memory at once
PICTURES = (".png", ".webp")
TOKENIZER = "tokenizer_sha256"  # in the recipe of ids
WEBP_SIDE = 16383  # px


def read_photo(content: bytes, size: int) -> Tensor:
    """An image file's content, centre-cropped to a square: uint8 (3, size, size). Raises Unusable."""
    check_size(len(content), MAX_PIXELS)
    check_image(content, MAX_PIXELS, "the limit")
    return torch.from_numpy(center_crop(to_rgb(open_image(content)), size).copy()).permute(2, 0, 1)


def read_photos(paths: list[Path], size: int) -> Iterator[Tensor]:
    """Image files in batches, in their order: uint8 (B, 3, size, size).

    Raises PrologueError naming a file that cannot be used.
    """
    for start in range(0, len(paths), BATCH):
        yield torch.stack([_read(path, size) for path in paths[start : start + BATCH]])


def photo_paths(given: list[Path]) -> list[Path]:
    """The image files among paths, where a folder stands for all images below it.

    Raises PrologueError where none is.
    """
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            found += image_paths(path)[0]
        else:
            found.append(path)
    if not found:
        raise PrologueError(f"{', '.join(map(str, given))}: no images there")
    return found


def _read(path: Path, size: int) -> Tensor:
    try:
        return read_photo(path.read_bytes(), size)
    except (OSError, Unusable) as error:
        raise PrologueError(f"{path} cannot be used: {error}") from None


def check_apart(output: Path, inputs: list[Path]) -> None:
    """Raise PrologueError where an output would take the place of one of the inputs."""
    if output.resolve() in {path.resolve() for path in inputs}:
        raise PrologueError(f"{output} is one of the inputs, and would be overwritten; give another --output")


def check_output(output: Path) -> None:
    """Raise PrologueError for what `write_images` does not or cannot write, and for a folder that holds files."""
    if output.suffix not in ("", ".npz", *PICTURES):
        raise PrologueError(
            f"{output}: give a picture ({' or '.join(PICTURES)}), an .npz, or a name without an ending for a folder"
        )
    if output.suffix:
        check_file(output)
    else:
        check_replaceable(output)


def write_images(
    output: Path,
    images: Pixels,
    labels: list[int] | None,
    names: list[str],
    grid: Callable[[], Image.Image],
    recipe: Recipe,
    each: dict[str, list[str]],
) -> None:
    """Write images uint8 (N, H, W, 3) as one `grid`, as an npz in the ADM layout, or each as NAME.png of a folder.

    Each file carries the recipe, and of `each`, N values by key, those of the images in it; that of a folder says which
    image it is. Raises PrologueError for a grid that is too large for its file.
    """
    check_output(output)
    with replacing(output) as temporary:
        if output.suffix == ".npz":
            with temporary.open("wb") as file:
                arrays = [images] if labels is None else [images, np.array(labels, np.int64)]
                np.savez(file, *arrays, recipe=recipe_array(recipe | each))  # arr_0, arr_1 and recipe
        elif output.suffix:
            picture = grid()
            if output.suffix == ".webp" and max(picture.size) > WEBP_SIDE:
                raise PrologueError(
                    f"{output}: a WebP has up to {WEBP_SIDE} px a side, and {len(images)} images are "
                    f"{picture.width} x {picture.height} px; give a .png, an .npz or a folder"
                )
            save_picture(picture, temporary, "png" if output.suffix == ".png" else "webp", recipe | each)
        else:
            temporary.mkdir()
            for number, (image, name) in enumerate(zip(images, names, strict=True)):
                own = {key: [values[number]] for key, values in each.items()} | {"image": number}
                save_picture(Image.fromarray(image), temporary / f"{name}.png", "png", recipe | own)


def write_ids(output: Path, tokens: Tokens, names: list[str], recipe: Recipe) -> None:
    """Write ids as an npz: visual uint16 (N, Nv), prologue uint16 (N, Np) where there is one, names (N,), recipe."""
    parts: dict[str, Any] = {name: part.cpu().numpy().astype(np.uint16) for name, part in tokens.named().items()}
    with replacing(output) as temporary, temporary.open("wb") as file:
        np.savez(file, names=np.array(names), recipe=recipe_array(recipe), **parts)


def read_ids(path: Path, tokenizer: Tokenizer) -> tuple[Tokens, list[str]]:
    """What `write_ids` wrote, with the names. Raises PrologueError for ids that are not of this tokenizer."""
    if not path.is_file():
        raise PrologueError(f"{path} not found: expected an npz that `prologue encode` wrote")
    if not zipfile.is_zipfile(path):
        raise PrologueError(f"{path} holds no ids, which `prologue encode` writes: it is no npz")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        visual = arrays["visual"]
    except DAMAGED as error:
        raise PrologueError(f"{path} holds no ids, which `prologue encode` writes: {error}") from None
    if (known := _encoded_by(path)) and known != weights_sha256(tokenizer):
        raise PrologueError(f"{path} was encoded by another tokenizer; give the --model that encoded it")
    config = tokenizer.config
    _check_ids(path, "visual", visual, config.visual_tokens, config.tokenizer.codebook)
    prologue = arrays.get("prologue")
    if prologue is not None and config.prologue is not None:
        _check_ids(path, "prologue", prologue, config.prologue.tokens, config.prologue.codebook)
    names = [str(name) for name in arrays.get("names", range(len(visual)))]
    if len({len(visual), len(names), *([] if prologue is None else [len(prologue)])}) > 1:
        raise PrologueError(f"{path}: prologue, visual and names are not of as many images")
    held = None if prologue is None else torch.from_numpy(prologue.astype(np.int64))
    return Tokens(held, torch.from_numpy(visual.astype(np.int64))), names


def _encoded_by(path: Path) -> str | None:
    """Which tokenizer made ids, by the recipe beside them; None where that tells nothing of it."""
    try:
        return str(read_recipe(path)[0][TOKENIZER])
    except (PrologueError, KeyError):
        return None


def _check_ids(path: Path, segment: str, ids: NDArray[np.generic], tokens: int, codes: int) -> None:
    if ids.ndim != 2 or ids.shape[1] != tokens or not np.issubdtype(ids.dtype, np.integer):
        raise PrologueError(
            f"{path}: {segment} ids are {ids.dtype} {ids.shape}, but this model has {tokens} {segment} tokens an image"
        )
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < codes:
        raise PrologueError(f"{path}: {segment} ids up to {int(ids.max())}, but this model has {codes} {segment} codes")
