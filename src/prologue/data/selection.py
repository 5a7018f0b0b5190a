"""Which listed files become the images of each split: classes, held-out images, limits, and a mixed order."""

import math
from collections.abc import Iterable

from prologue.core.errors import PrologueError
from prologue.core.params import DataParams
from prologue.data.listing import Listing
from prologue.data.sources.base import Source

MIN_VALIDATION = 10  # images that the metrics need
NAMED_IN_ERROR = 5  # classes
GOOD = "problem IS NULL AND class NOT NULL"


def choose_images(listing: Listing, source: Source, data: DataParams) -> None:
    """Fill the tables `classes` and `chosen` of a listing.

    Which images are held out or left out, and their order, follow from the listing's seed and the files' paths alone.

    Raises:
        PrologueError: a named class is missing, or a split or class would be left without images.
    """
    _choose_classes(listing, source, data.classes)
    if not listing.one("SELECT COUNT(*) FROM files WHERE split = 'val'")[0]:
        _hold_out(listing, data.val_fraction)
    listing.connection.execute("UPDATE files SET split = 'train' WHERE split IS NULL")
    for split, limit in (("train", data.train_limit), ("val", data.val_limit)):
        listing.connection.execute(
            f"""
            INSERT INTO chosen SELECT ?, ROW_NUMBER() OVER (ORDER BY part, key, id) - 1, id FROM (
                SELECT id, part, key, ROW_NUMBER() OVER (PARTITION BY class ORDER BY key, id) AS rank
                FROM files JOIN classes ON class = name WHERE {GOOD} AND split = ? ORDER BY rank, key, id LIMIT ?
            )
            """,
            (split, split, -1 if limit is None else limit),  # a limit takes every class's first, then every second ...
        )
    listing.connection.commit()
    _check(listing)


def _choose_classes(listing: Listing, source: Source, wanted: int | list[str | int] | None) -> None:
    """Number the classes: all of the source, or the wanted ones, by their names or as so many of the first."""
    present = set(listing.names(f"SELECT DISTINCT class FROM files WHERE {GOOD}"))
    ordered = (
        [name for name in source.classes if name in present] if source.classes else sorted(present, key=_by_number)
    )
    if isinstance(wanted, list):
        readable = {source.readable.get(name, name): name for name in ordered}
        chosen = {name if name in present else readable.get(name) for name in map(str, wanted)}
        missing = [name for name in map(str, wanted) if name not in present and name not in readable]
        if missing:
            raise PrologueError(f"it has no classes {name_some(missing)} of data.classes; it has {name_some(ordered)}")
        ordered = [name for name in ordered if name in chosen]
    elif wanted is not None:
        ordered = ordered[:wanted]
    rows = [(label, name, source.readable.get(name, name)) for label, name in enumerate(ordered)]
    listing.connection.executemany("INSERT INTO classes VALUES (?, ?, ?)", rows)


def _by_number(name: str) -> tuple[int, str]:
    """Sort key: numbers by value, before other names in their order."""
    return (int(name), name) if name.isdecimal() else (2**63, name)


def _hold_out(listing: Listing, fraction: float) -> None:
    """Make the first images of each class validation images.

    The fraction of a class; of small classes more, up to half, to reach MIN_VALIDATION images in all.
    """
    counts = listing.connection.execute(
        f"SELECT class, COUNT(*) FROM files JOIN classes ON class = name WHERE {GOOD} GROUP BY class"
    ).fetchall()
    least = math.ceil(MIN_VALIDATION / len(counts))
    held_out = [(name, min(max(round(fraction * count), min(least, count // 2)), count - 1)) for name, count in counts]
    listing.connection.execute("CREATE TEMP TABLE held_out (name TEXT PRIMARY KEY, count INTEGER)")
    listing.connection.executemany("INSERT INTO held_out VALUES (?, ?)", held_out)
    listing.connection.execute(
        f"""
        UPDATE files SET split = 'val' WHERE id IN (
            SELECT id FROM (
                SELECT id, class, ROW_NUMBER() OVER (PARTITION BY class ORDER BY key, id) AS rank
                FROM files WHERE {GOOD}
            ) JOIN held_out ON class = name WHERE rank <= count
        )
        """
    )


def _check(listing: Listing) -> None:
    untrained = listing.names(
        "SELECT name FROM classes WHERE name NOT IN (SELECT class FROM chosen JOIN files USING (id) "
        "WHERE chosen.split = 'train')"
    )
    if untrained:
        raise PrologueError(
            f"it has no training images of the classes {name_some(untrained)}; every class needs images in train/, and "
            "data.train_limit at least one per class"
        )
    if not listing.count("val"):
        raise PrologueError("it has one image per class, so none can be held out; add val/")


def name_some(names: Iterable[str]) -> str:
    """The first few of some names, for a message."""
    first, *others = sorted(names)
    shown = ", ".join([first, *others[: NAMED_IN_ERROR - 1]])
    return shown + (", ..." if len(others) >= NAMED_IN_ERROR else "")
