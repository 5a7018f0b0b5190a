"""What the names of files and folders say: of parts such as train and val, and of what is none of the user's images."""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import PurePosixPath

from PIL import Image

TRAIN, VALIDATION, TEST = "train", "validation", "test"
WORDS = {  # of each part, as the Hugging Face hub reads them
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "dev"), VALIDATION),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), TEST),
}
WORD = re.compile(
    rf"({'|'.join(sorted(WORDS, key=len, reverse=True))})(set|sets|images|data|\d+)?"
)  # trainset, val2017
BESIDE_A_WORD = {"set", "sets", "images", "image", "imgs", "img", "data", "dataset", "split", "folder", "dir"}
SYSTEM = {
    *("__macosx", "@eadir", "#recycle", "$recycle.bin", "lost+found", "system volume information"),
    *("thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r"),
}
NO_PICTURES = {".pdf", ".mpg", ".mpeg", ".h5", ".hdf", ".grib", ".bufr", ".palm"}  # which Pillow writes, or only names
OF_CAMERAS = {".heic", ".heif", ".hif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"}
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF")
SIGNATURE_BYTES = 16


def parts_of_folders(names: Sequence[str]) -> dict[str, str]:
    """The part that each of some neighbouring folders is by its name; without those whose names say nothing of parts.

    A name is a word of a part, alone or with a word such as set (`Training_set`, `val2017`), or differs from that of a
    neighbour by such a word alone (`seg_train`, `seg_test`).
    """
    read = {name: found for name in names if (found := _word_of(name)) is not None}
    return {
        name: part
        for name, (part, rest) in read.items()
        if set(rest) <= BESIDE_A_WORD or any(other[1] == rest and other[0] != part for other in read.values())
    }


def _word_of(name: str) -> tuple[str, tuple[str, ...]] | None:
    """The part of the only word of one in a name, and the other words."""
    words = words_of(name)
    found = [(index, match[1]) for index, word in enumerate(words) if (match := WORD.fullmatch(word))]
    if len(found) != 1:
        return None
    index, word = found[0]
    return WORDS[word], (*words[:index], *words[index + 1 :])


def words_of(name: str) -> tuple[str, ...]:
    """The words of a name in lower case: what stands between anything but letters and digits."""
    return tuple(word for word in re.split(r"[\W_]+", unicodedata.normalize("NFC", name).lower()) if word)


def parts_of_files(paths: Sequence[str]) -> dict[str, str | None]:
    """The part that each of some files is by the words in its path, as in train-00000-of-00002.parquet.

    Words that all paths have say nothing, if the others do. None: there is no word, or there are words of two parts.
    """
    found = {path: {WORDS[match[1]] for word in words_of(path) if (match := WORD.fullmatch(word))} for path in paths}
    common = set.intersection(*found.values()) if found else set()
    if any(parts - common for parts in found.values()):
        found = {path: parts - common or parts for path, parts in found.items()}
    return {path: next(iter(parts)) if len(parts) == 1 else None for path, parts in found.items()}


def is_system(name: str) -> bool:
    """Whether a file or folder of this name is the system's: hidden, a thumbnail cache, a waste bin."""
    return name.startswith((".", "$recycle", "._")) or name.lower() in SYSTEM


@lru_cache(maxsize=4096)
def _is_image_suffix(suffix: str) -> bool:
    return suffix in OF_CAMERAS or (suffix in Image.registered_extensions() and suffix not in NO_PICTURES)


def extension_of(name: str) -> str:
    """The extension of a file's name, in lower case with its dot; empty where there is none with a letter in it."""
    suffix = PurePosixPath(name).suffix.lower()
    return suffix if any(map(str.isalpha, suffix)) else ""


def is_image_name(name: str) -> bool | None:
    """Whether a file is an image by its name; None where it has no extension, so that only its content tells."""
    suffix = extension_of(name)
    return _is_image_suffix(suffix) if suffix else None


def is_image_start(content: bytes) -> bool:
    """Whether a file begins as those of the common formats of images do."""
    return content.startswith(SIGNATURES) or content[4:12] in (b"ftypavif", b"ftypheic")


def folders_and_name(path: str) -> list[str]:
    """Folders and name of a path in a source, in Unicode's composed form."""
    return [part for part in unicodedata.normalize("NFC", path).split("/") if part not in ("", ".")]


def points_outside(path: str) -> bool:
    """Whether a hostile archive's path leads out of where it would be unpacked."""
    return path.startswith("/") or ".." in path.split("/")
