"""How a generated file was made, written into it: the text and XMP of pictures, a key of npz files.

Pictures also say that they are generated, in IPTC's digital source type, which viewers and platforms read.
"""

import html
import json
import re
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from prologue.core.errors import PrologueError
from prologue.core.npz import DAMAGED

Recipe: TypeAlias = dict[str, Any]
Origin: TypeAlias = Literal["trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"]  # IPTC's words

KEY = "prologue"  # of a PNG's text; in an npz `recipe`
NPZ_KEY = "recipe"
PNG_XMP = "XML:com.adobe.xmp"
SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
NAMESPACE = "urn:prologue:recipe"
MOST_BYTES = 2**26  # of a recipe that is read
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'xmlns:prologue="{namespace}" Iptc4xmpExt:DigitalSourceType="{source}" prologue:recipe="{recipe}"/>'
    "</rdf:RDF></x:xmpmeta>"
)


def signed(recipe: Recipe) -> Recipe:
    """A recipe with the software that follows it."""
    return {"software": f"prologue {version('prologue')}", **recipe}


def save_picture(
    image: Image.Image,
    file: Path | IO[bytes],
    kind: Literal["png", "webp"],
    recipe: Recipe,
    origin: Origin = "trainedAlgorithmicMedia",
) -> None:
    """Write a picture, lossless, with its recipe and IPTC's word for where it comes from."""
    content = json.dumps(signed(recipe))
    xmp = XMP.format(namespace=NAMESPACE, source=SOURCE_TYPES + origin, recipe=html.escape(content))
    if kind == "webp":
        image.save(file, format="WEBP", lossless=True, xmp=xmp.encode())
        return
    text = PngInfo()
    text.add_itxt(KEY, content)
    text.add_itxt(PNG_XMP, xmp)
    image.save(file, format="PNG", pnginfo=text)


def recipe_array(recipe: Recipe) -> "np.ndarray[Any, np.dtype[np.str_]]":
    """A recipe as the array `recipe` of an npz."""
    return np.array(json.dumps(signed(recipe)))


def read_recipe(path: Path) -> tuple[Recipe, str | None]:
    """The recipe that a file carries, and a picture's digital source type where it says one.

    Raises PrologueError for a file that is not there, that carries none, or that is neither a picture nor an npz.
    """
    try:
        if zipfile.is_zipfile(path):
            return _of_npz(path), None
        with Image.open(path) as image:
            return _of_picture(image)
    except FileNotFoundError:
        raise PrologueError(f"{path} not found: there is no such file") from None
    except Image.DecompressionBombError as error:
        raise PrologueError(f"{path} is too large to be read: {error}") from None
    except (*DAMAGED, UnidentifiedImageError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise PrologueError(f"{path} cannot be read: {error.strerror}") from None
        raise PrologueError(
            f"{path} carries no recipe: it is no picture or npz of this project, or it was written again without it"
        ) from None


def _of_npz(path: Path) -> Recipe:
    with np.load(path, allow_pickle=False) as archive:
        return _parsed(str(archive[NPZ_KEY]))


def _of_picture(image: Image.Image) -> tuple[Recipe, str | None]:
    info = getattr(image, "text", None) or image.info  # the text of a PNG may stand behind its pixels
    xmp = info.get(PNG_XMP) or image.info.get("xmp", b"")
    xmp = xmp.decode() if isinstance(xmp, bytes) else str(xmp)
    source = re.search(r'DigitalSourceType="([^"]*)"', xmp)
    recipe = re.search(r'prologue:recipe="([^"]*)"', xmp)
    content = info[KEY] if KEY in info else html.unescape(recipe[1]) if recipe else ""
    return _parsed(str(content)), source[1] if source else None


def _parsed(content: str) -> Recipe:
    """A recipe of its text. Raises ValueError for what is none."""
    try:
        found = json.loads(content) if len(content) <= MOST_BYTES else None
    except RecursionError:
        found = None
    if not isinstance(found, dict):
        raise ValueError("no recipe")
    return found
