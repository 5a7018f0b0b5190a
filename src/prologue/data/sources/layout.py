"""What the names of files and folders say of splits and classes."""

from pathlib import PurePosixPath

VAL_SPLITS = ("val", "validation", "test")  # the first that a source has is its validation split
SPLITS = ("train", *VAL_SPLITS)


def split_of(path: str) -> str | None:
    """The split that a folder or the file's name says, as in train-00000-of-00002.parquet; None where neither does."""
    *folders, name = PurePosixPath(path).parts
    words = name.replace("_", "-").replace(".", "-").split("-")
    return next((word for word in (*folders, *words) if word in SPLITS), None)


def is_hidden(part: str) -> bool:
    """Whether a file or folder of this name is none of the user's."""
    return part.startswith(".") or part == "__MACOSX"


def parts_of(path: str) -> list[str]:
    """Folders and name of a path in a source."""
    return [part for part in path.split("/") if part not in ("", ".")]


def points_outside(path: str) -> bool:
    """Whether a hostile archive's path leads out of where it would be unpacked."""
    return path.startswith("/") or ".." in path.split("/")
