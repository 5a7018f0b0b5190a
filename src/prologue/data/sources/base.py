"""What every kind of source has in common: it lists its files in constant memory, and reads one by its place."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass


class Unusable(Exception):
    """One file cannot be used; the message is the reason that the manifest gives."""


@dataclass(frozen=True, slots=True)
class File:
    """A file as its source lists it.

    Attributes:
        path: its name in the source; bytes that are no UTF-8 as surrogate escapes.
        size: in bytes; 0 where the source does not tell.
        place: numbers by which the source finds it again; the first says what it lies in, and files of one such part
            are best read together.
        problem: why it cannot be used, where the listing tells.
        split: train, val, validation or test where the source says so by other means than folders.
        class_name: the same of its class.
    """

    path: str
    size: int
    place: tuple[int, ...] = ()
    problem: str | None = None
    split: str | None = None
    class_name: str | None = None


class Source(ABC):
    """A collection of images, at a path.

    Attributes:
        classes: class names in the order of their labels; None: in the order of the names.
        readable: names for people, by class name.
        by_part: whether reading is much faster when files of one part of the source are read together.
        in_folders: whether split and class follow from the folders of a file's path.
    """

    classes: list[str] | None = None
    by_part = False
    in_folders = True

    def __init__(self) -> None:
        self.readable: dict[str, str] = {}

    @abstractmethod
    def files(self) -> Iterator[File]:
        """Every file, in an order that is always the same. Raises PrologueError where the source is damaged."""

    @abstractmethod
    def read(self, path: str, size: int, place: tuple[int, ...]) -> bytes:
        """The content of a listed file. Raises Unusable where it cannot be read."""
