"""What the folders of a source say: which are parts such as train/ and val/, which are classes, and what is neither."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from prologue.core.errors import PrologueError
from prologue.data.sources.layout import TEST, TRAIN, VALIDATION, parts_of_folders

NAMED = 5  # folders in a message


@dataclass
class Folder:
    """A folder of a source: how many images and other files lie directly in it, and the folders inside."""

    path: str = ""
    images: int = 0
    others: int = 0
    inside: dict[str, "Folder"] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def all_images(self) -> int:
        """Images in this folder and below."""
        return self.images + sum(folder.all_images for folder in self.inside.values())

    @property
    def all_others(self) -> int:
        """Other files in this folder and below."""
        return self.others + sum(folder.all_others for folder in self.inside.values())

    @property
    def with_images(self) -> list["Folder"]:
        """The folders inside that have images in them or below, by name."""
        return sorted((folder for folder in self.inside.values() if folder.all_images), key=lambda folder: folder.name)

    def at(self, folders: Sequence[str]) -> "Folder":
        """The folder at a path below, made where it is not known yet."""
        found = self
        for name in folders:
            if name not in found.inside:
                found.inside[name] = Folder(f"{found.path}/{name}".lstrip("/"))
            found = found.inside[name]
        return found

    def below(self) -> Iterator["Folder"]:
        """This folder and all below."""
        yield self
        for folder in self.inside.values():
            yield from folder.below()


@dataclass
class Layout:
    """What the folders of a source are.

    Attributes:
        parts: the folder of each part; empty where the source is not divided.
        classes: by path of each folder of images, its part and the name of its class; None for images without class.
        no_class: folders without any image, beside or inside the others.
        warnings: what a user should know.
    """

    parts: dict[str, Folder] = field(default_factory=dict)
    classes: dict[str, tuple[str | None, str | None]] = field(default_factory=dict)
    no_class: list[Folder] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def read_layout(root: Folder) -> Layout:
    """Find the parts and classes of a source.

    Folders that hold nothing but one folder are passed through. A folder is a part if its name says so and class
    folders are in it; beside one, others whose names say so are parts without classes. Everything below a class folder
    is of that class.

    Raises:
        PrologueError: there are no class folders, a part is there twice or without train/, or folders of no known part
            lie beside the parts.
    """
    layout = Layout()
    top = _unwrapped(root, layout, _is_part)
    named = parts_of_folders([folder.name for folder in top.with_images])
    if not any(folder.with_images for folder in top.with_images if folder.name in named):
        _read_classes(top, None, layout)
        if len(layout.classes) > 1 and all(folder.name in named for folder in top.with_images):
            layout.warnings.append(f"{_some(top.with_images)} have no class folders in them, so each is a class itself")
        return layout
    layout.parts = _parts(top, named)
    layout.no_class += [folder for folder in top.inside.values() if not folder.all_images]
    layout.classes[top.path] = (None, None)
    for folder in top.with_images:  # those that are no part after all, since another is, too
        layout.classes |= {below.path: (named[folder.name], None) for below in folder.below() if below.images}
    known = _read_classes(_unwrapped(layout.parts[TRAIN], layout, lambda _: False), TRAIN, layout)
    for part in (VALIDATION, TEST):
        if part in layout.parts:
            _read_part(layout.parts[part], part, known, layout)
    return layout


def _unwrapped(folder: Folder, layout: Layout, is_content: Callable[[Folder], bool]) -> Folder:
    """The first folder, from the outside, that holds several folders, one without folders, or one of content."""
    while not folder.images and len(folder.with_images) == 1:
        (inner,) = folder.with_images
        if not inner.with_images or is_content(inner):
            break
        layout.no_class += [other for other in folder.inside.values() if not other.all_images]
        folder = inner
    return folder


def _is_part(folder: Folder) -> bool:
    """Whether a folder that has no neighbours is a part: by its name, if what it holds are no parts themselves."""
    named = parts_of_folders([inner.name for inner in folder.with_images])
    holds_parts = any(inner.with_images for inner in folder.with_images if inner.name in named)
    return bool(parts_of_folders([folder.name])) and not holds_parts


def _parts(top: Folder, named: dict[str, str]) -> dict[str, Folder]:
    """The folder of each part. Raises as `read_layout`."""
    where = f"{top.path}/" if top.path else ""
    unknown = [folder for folder in top.with_images if folder.name not in named]
    if unknown:
        raise PrologueError(
            f"{where}{_some(unknown)}: of no known part, beside {_some([top.inside[name] for name in named])}; move "
            "what is not to be used, name it train, val or test, or name one of the folders as data.source"
        )
    parts: dict[str, Folder] = {}
    for folder in top.with_images:
        part = named[folder.name]
        if part in parts and bool(parts[part].with_images) == bool(folder.with_images):
            raise PrologueError(
                f"{where}{_some([parts[part], folder])} are both its part {part}; move the one that is not to be used"
            )
        if part not in parts or folder.with_images:
            parts[part] = folder
    if TRAIN not in parts or not parts[TRAIN].with_images:
        others = _some([folder for part, folder in parts.items() if part != TRAIN])
        flat = f"; the images of {parts[TRAIN].name}/ are in no class folder" if TRAIN in parts else ""
        raise PrologueError(f"it has {where}{others} but no train/ with class folders{flat}")
    return parts


def _read_classes(folder: Folder, part: str | None, layout: Layout) -> frozenset[str]:
    """Make the folders in a folder classes; returns their names."""
    layout.classes[folder.path] = (part, None)
    for inner in folder.with_images:
        holding = [below.path for below in inner.below() if below.images]
        layout.classes |= dict.fromkeys(holding, (part, inner.name))
        if len(holding) > 1:
            layout.warnings.append(f"the class {inner.path} spans {len(holding)} folders: {', '.join(holding[:NAMED])}")
    layout.no_class += [inner for inner in folder.inside.values() if not inner.all_images]
    return frozenset(inner.name for inner in folder.with_images)


def _read_part(folder: Folder, part: str, known: frozenset[str], layout: Layout) -> None:
    """Read a part beside train/: its images have no class where none of its folders is a class of training."""
    top = _unwrapped(folder, layout, lambda inner: inner.name in known)
    if known & {inner.name for inner in top.with_images}:
        _read_classes(top, part, layout)
        return
    layout.classes |= {below.path: (part, None) for below in folder.below() if below.images}


def _some(folders: Sequence[Folder]) -> str:
    """The first few of some folders, for a message."""
    shown = ", ".join(f"{folder.name}/" for folder in folders[:NAMED])
    return shown + (f" and {len(folders) - NAMED} more" if len(folders) > NAMED else "")
