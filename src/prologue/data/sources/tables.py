"""Tables of labels that data sets bring along: which class an image has that lies in no class folder."""

import csv
import io
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from prologue.core.errors import PrologueError
from prologue.data.sources.base import File, Source, Unusable

KAGGLE_LABELS, KAGGLE_NAMES = "LOC_val_solution.csv", "LOC_synset_mapping.txt"  # of Kaggle's ImageNet
TINY_LABELS, TINY_NAMES = "val_annotations.txt", "words.txt"  # of Tiny ImageNet
TABLES = {KAGGLE_LABELS, KAGGLE_NAMES, TINY_LABELS, TINY_NAMES}
LARGEST = 2**26  # bytes of a table


@dataclass
class Labels:
    """Class by the name of an image, without folders and extension; names for people by class; the tables read."""

    of_image: dict[str, str] = field(default_factory=dict)
    readable: dict[str, str] = field(default_factory=dict)
    tables: list[str] = field(default_factory=list)


def read_tables(source: Source, files: list[File]) -> Labels:
    """Read the tables among some files of a source. Raises PrologueError for one that is damaged or another's."""
    labels = Labels()
    for file in files:
        name = PurePosixPath(file.path).name
        lines = _text(source, file).splitlines()
        try:
            if name == KAGGLE_LABELS:
                rows = csv.DictReader(io.StringIO("\n".join(lines)))
                labels.of_image |= {row["ImageId"]: row["PredictionString"].split()[0] for row in rows}
            elif name == TINY_LABELS:
                labels.of_image |= {PurePosixPath(row[0]).stem: row[1] for line in lines if (row := line.split("\t"))}
            else:
                separator = " " if name == KAGGLE_NAMES else "\t"
                named = (line.partition(separator) for line in lines)
                labels.readable |= {wordnet: words.split(",")[0] for wordnet, _, words in named if words}
        except (KeyError, IndexError, TypeError, AttributeError, csv.Error):
            raise PrologueError(f"{file.path} is not a table of labels as its name says") from None
        if name in (KAGGLE_LABELS, TINY_LABELS):
            labels.tables.append(file.path)
    return labels


def _text(source: Source, file: File) -> str:
    if file.problem or file.size > LARGEST:
        raise PrologueError(
            f"{file.path} cannot be read: {file.problem or f'{file.size} bytes are no table of labels'}"
        )
    try:
        return source.read(file.path, file.size, file.place).decode("utf-8-sig")
    except (Unusable, UnicodeDecodeError) as error:
        raise PrologueError(f"{file.path} {error}") from None
