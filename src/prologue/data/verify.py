"""Whether the bytes of a file are an image that training can use."""

from PIL import Image, UnidentifiedImageError

from prologue.core.files import IS_LFS_POINTER, LFS_POINTER
from prologue.data.images import EXTENSIONS, FORMATS, open_image, to_rgb
from prologue.data.sources.base import Unusable

MAX_ASPECT = 100  # scaling the shorter side of a thinner image to image_size would take too much memory
MAX_BYTES_PER_PIXEL = 8  # 16-bit RGBA, uncompressed


def check_size(size: int, max_pixels: int) -> None:
    """Raise Unusable for a file that is larger than any image of `max_pixels`, before it is read."""
    if size > MAX_BYTES_PER_PIXEL * max_pixels + 2**20:
        raise Unusable(f"{size} bytes, more than an image of {max_pixels} pixels takes")


def _format_of(content: bytes) -> str | None:
    """What a file that is not read is, where its first bytes tell; nothing of it is opened."""
    if content.startswith(LFS_POINTER):
        return IS_LFS_POINTER
    Image.init()
    start = content[:64].ljust(64, b"\0")
    others = {name: accept for name, (_, accept) in Image.OPEN.items() if name not in FORMATS}
    found = (name for name, accept in others.items() if accept and accept(start) is True)
    return next((f"{name} is no format that is read" for name in found), None)


def check_image(content: bytes, max_pixels: int, limit: str = "data.max_pixels") -> str:
    """Decode an image file completely; return the extension of its real format.

    Raises:
        Unusable: it is empty, damaged, cut off, no image, animated, thinner than 1 : 100 or larger than `max_pixels`,
            which users know as `limit`.
    """
    if not content:
        raise Unusable("the file is empty")
    try:
        with open_image(content) as image:
            if image.width * image.height > max_pixels:
                raise Unusable(f"{image.width} x {image.height} pixels, more than {limit} = {max_pixels}")
            if max(image.size) > MAX_ASPECT * min(image.size):
                raise Unusable(f"{image.width} x {image.height} pixels: longer than {MAX_ASPECT} times its width")
            if getattr(image, "is_animated", False) and image.format != "MPO":
                raise Unusable("more than one frame or page")
            name = EXTENSIONS[str(image.format)]
            if name == "jpg":
                image.draft(None, (1, 1))  # all of the file is decoded, to an eighth of its size: faster, less memory
                image.load()
            else:
                to_rgb(image)
            return name
    except Unusable:
        raise
    except UnidentifiedImageError:
        known = _format_of(content)
        raise Unusable(f"does not decode: {known or 'no image of a format that is read'}") from None
    except Exception as error:  # Pillow's plugins raise nearly anything on damaged files
        raise Unusable(f"does not decode: {error or type(error).__name__}") from error
