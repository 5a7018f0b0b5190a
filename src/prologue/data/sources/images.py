"""Which files of a source are the user's images: one rule for what is trained on and for what is measured."""

from collections import Counter
from pathlib import Path

from prologue.data.sources.base import File, Source, Unusable
from prologue.data.sources.folder import FolderSource
from prologue.data.sources.layout import extension_of, folders_and_name, is_image_name, is_image_start, is_system


def why_ignored(source: Source, file: File) -> tuple[str, str] | None:
    """Why a file is none of the user's images, and what counts it: its system name or extension; None for an image.

    By its name; a file without an extension by its first bytes.
    """
    folders = folders_and_name(file.path)
    system = next(filter(is_system, folders), None)
    if system is not None:
        return "system", "._*" if system.startswith("._") else system  # Apple's, one beside each file
    known = is_image_name(folders[-1])
    if known is None:
        known = file.problem is not None or _starts_as_image(source, file)
    return None if known else ("no image", extension_of(folders[-1]) or "no extension")


def image_paths(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Paths of all images below a folder, in their order, and how many other files there are, by what counts them."""
    source, found, ignored = FolderSource(folder), [], Counter[str]()
    for file in source.files():
        why = why_ignored(source, file)
        if why is None:
            found.append(folder / file.path)
        else:
            ignored[why[1]] += 1
    return sorted(found), ignored


def _starts_as_image(source: Source, file: File) -> bool:
    try:
        return is_image_start(source.start(file))
    except Unusable:
        return True  # said where it is read
