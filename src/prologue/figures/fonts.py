"""A font that has the letters of a label, whatever its language: an installed one, or the letters' code points."""

from functools import cache

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

FAMILY = "DejaVu Sans"  # comes with matplotlib: Latin, Greek, Cyrillic, Hebrew, Arabic


def font_for(text: str, size: int) -> tuple[ImageFont.FreeTypeFont, str]:
    """A font of a size in px, and the text as that font can draw it.

    The text stays as it is where one installed font has all of its letters; else those that matplotlib's own font lacks
    are written as U+732B, never drawn as boxes.
    """
    own = font_manager.findfont(FAMILY)
    wanted = frozenset(letter for letter in text if not letter.isspace())
    path = own if not _lacking(own, wanted) else _installed_with(wanted)
    if path is None:
        path, lacking = own, _lacking(own, wanted)
        text = "".join(f"U+{ord(letter):04X}" if letter in lacking else letter for letter in text)
    return ImageFont.truetype(path, size), text


def _lacking(path: str, letters: frozenset[str]) -> set[str]:
    font = FT2Font(path)
    return {letter for letter in letters if not font.get_char_index(ord(letter))}


@cache
def _installed_with(letters: frozenset[str]) -> str | None:
    """The first of the installed fonts, by path, that has all of these letters."""
    installed = {
        font.fname
        for font in font_manager.fontManager.ttflist
        if font.style == "normal" and font.weight == 400 and "Last Resort" not in font.name  # has a box for everything
    }
    return next((path for path in sorted(installed) if _has(path, letters)), None)


def _has(path: str, letters: frozenset[str]) -> bool:
    """Whether a font has all letters; one that matplotlib remembers and that is gone or broken has none."""
    try:
        return not _lacking(path, letters)
    except (OSError, RuntimeError):
        return False
