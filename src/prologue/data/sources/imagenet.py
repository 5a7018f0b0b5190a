"""ImageNet as its site distributes it: the official tars, read in place. Kaggle's zip has folders and a table."""

import io
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from prologue.core.errors import PrologueError
from prologue.data.sources.base import File, Source
from prologue.data.sources.layout import TRAIN, VALIDATION
from prologue.data.sources.tar_archive import nested_files, read_span, tar_files

TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
TRUTH, SYNSETS = "data/ILSVRC2012_validation_ground_truth.txt", "data/meta.mat"


class OfficialImageNet(Source):
    """A folder with the official tars: a tar of one tar per class, a flat tar, and the devkit with the labels."""

    in_folders = False

    def __init__(self, folder: Path) -> None:
        super().__init__()
        missing = [name for name in (TRAIN_TAR, VAL_TAR, DEVKIT) if not (folder / name).is_file()]
        if missing:
            raise PrologueError(f"{folder} lacks {', '.join(missing)} of the official ImageNet files")
        self.named_parts = {TRAIN: TRAIN_TAR, VALIDATION: VAL_TAR}
        self._folder = folder
        self._tars = [folder / TRAIN_TAR, folder / VAL_TAR]
        self._open = [tar.open("rb") for tar in self._tars]

    def files(self) -> Iterator[File]:
        truth, self.readable = _devkit(self._folder / DEVKIT)
        for file in nested_files(self._tars[0], part=0):
            yield replace(file, part=TRAIN, class_name=file.path.split("/")[0])
        for file in tar_files(self._tars[1], part=1):
            number = Path(file.path).stem.rsplit("_", 1)[-1]  # ILSVRC2012_val_00000001.JPEG
            known = number.isdecimal() and 1 <= int(number) <= len(truth)
            problem = file.problem or (None if known else "the devkit has no label for it")
            yield replace(file, part=VALIDATION, class_name=truth[int(number) - 1] if known else None, problem=problem)

    def read(self, path: str, size: int, place: tuple[int, ...]) -> bytes:
        return read_span(self._open[place[0]].fileno(), place[1], size)


def is_official_imagenet(folder: Path) -> bool:
    """Whether a folder has any of the official tars."""
    return any((folder / name).is_file() for name in (TRAIN_TAR, VAL_TAR))


def _devkit(path: Path) -> tuple[list[str], dict[str, str]]:
    """WordNet id of each validation image, and names for people by WordNet id."""
    try:
        with tarfile.open(path, "r:gz") as archive:
            members = {name: info for info in archive for name in (TRUTH, SYNSETS) if info.name.endswith(name)}
            content = {}
            for name, info in members.items():
                file = archive.extractfile(info)
                assert file is not None
                content[name] = file.read()
        from scipy.io import loadmat  # takes its time to load

        synsets = loadmat(io.BytesIO(content[SYNSETS]), squeeze_me=True)["synsets"]
        by_id = {int(entry["ILSVRC2012_ID"]): (str(entry["WNID"]), str(entry["words"])) for entry in synsets}
        truth = [by_id[int(line)][0] for line in content[TRUTH].split()]
    except (tarfile.TarError, OSError, KeyError, ValueError, EOFError) as error:
        raise PrologueError(f"{path} is not the devkit of ILSVRC2012, or damaged: {error!r}") from None
    return truth, {name: words.split(",")[0] for name, words in by_id.values()}
