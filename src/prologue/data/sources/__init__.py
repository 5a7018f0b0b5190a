"""Where images come from: folders, zips, tars, ImageNet as distributed, Parquet, webdataset shards; read in place."""

from collections.abc import Callable
from pathlib import Path

from prologue.core.errors import PrologueError
from prologue.data.sources.base import Source
from prologue.data.sources.folder import FolderSource
from prologue.data.sources.imagenet import OfficialImageNet, is_official_imagenet
from prologue.data.sources.layout import is_image_name
from prologue.data.sources.tar_archive import TarSource, is_tar
from prologue.data.sources.webdataset import WebdatasetSource, first_endings, has_labels
from prologue.data.sources.zip_archive import ZipSource, is_zip

KINDS: dict[str, Callable[[Path], Source]] = {
    "folder": FolderSource,
    "zip": ZipSource,
    "tar": TarSource,
    "official_imagenet": OfficialImageNet,
    "webdataset": WebdatasetSource,
}  # and parquet


def open_source(kind: str, path: Path) -> Source:
    """The source of a path that is of a kind, as `kind_of` says it."""
    if kind == "parquet":
        from prologue.data.sources.parquet import ParquetSource  # pyarrow takes its time to load

        return ParquetSource(path)
    return KINDS[kind](path)


def kind_of(path: Path) -> str:
    """What kind of source a path is. Raises PrologueError where it is none of them."""
    try:
        kind = _kind_of_folder(path) if path.is_dir() else _kind_of_file(path)
    except OSError as error:
        raise PrologueError(f"data.source: {path} cannot be read: {error.strerror}") from None
    if kind is None:
        cut = " (cut off? the directory that ends a zip is not there)" if path.suffix.lower() == ".zip" else ""
        raise PrologueError(
            f"data.source: {path} is neither a folder, zip, uncompressed tar nor Parquet file{cut}; "
            "data/README.md says what can be named"
        )
    return kind


def _kind_of_folder(path: Path) -> str:
    if is_official_imagenet(path):
        return "official_imagenet"
    if next(path.rglob("*.parquet"), None):
        from prologue.data.sources.parquet import has_images

        if has_images(path):
            return "parquet"
    endings = first_endings(path)
    if has_labels(endings):
        return "webdataset"
    in_tars = any(is_image_name(f"sample{ending}") for ending in endings)
    if in_tars and not any(is_image_name(file.path) for file in FolderSource(path).files()):
        raise PrologueError(
            f"data.source: the tars in {path} hold images without labels: "
            f"their samples have no .cls or .json but {', '.join(endings)}"
        )
    return "folder"


def _kind_of_file(path: Path) -> str | None:
    if path.suffix == ".parquet":
        return "parquet"
    if is_tar(path):  # before zip: a tar that holds a stored zip may be taken for one, but never a zip for a tar
        return "webdataset" if has_labels(first_endings(path)) else "tar"
    return "zip" if is_zip(path) else None
