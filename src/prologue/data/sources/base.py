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
        place: numbers by which the source finds it again; the first says what it lies in.
        problem: why it cannot be used, where the listing tells.
        part: train, validation or test where the source says so by other means than folders.
        class_name: the same of its class.
    """

    path: str
    size: int
    place: tuple[int, ...] = ()
    problem: str | None = None
    part: str | None = None
    class_name: str | None = None


class Source(ABC):
    """A collection of images, at a path.

    Attributes:
        classes: class names in the order of their labels; None: in the order of the names.
        readable: names for people, by class name.
        by_place: whether reading is much faster when files whose places begin alike are read together.
        in_folders: whether part and class follow from the folders of a file's path.
        unlabelled: why an image has no class, where nothing else is said.
        named_parts: what each part of the source is called there, by train, validation and test.
        left_aside: files that hold no images for us, each with how many images it has and the reason.
    """

    classes: list[str] | None = None
    unlabelled = "not inside a class folder"
    by_place = False
    in_folders = True

    def __init__(self) -> None:
        self.readable: dict[str, str] = {}
        self.named_parts: dict[str, str] = {}
        self.left_aside: list[tuple[str, int, str]] = []

    @abstractmethod
    def files(self) -> Iterator[File]:
        """Every file, in an order that is always the same. Raises PrologueError where the source is damaged."""

    @abstractmethod
    def read(self, path: str, size: int, place: tuple[int, ...]) -> bytes:
        """The content of a listed file. Raises Unusable where it cannot be read."""

    def start(self, file: File) -> bytes:
        """The first bytes of a listed file, SIGNATURE_BYTES of them or more. Raises Unusable."""
        return self.read(file.path, file.size, file.place)
