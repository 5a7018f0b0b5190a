"""Which listed files become the images of each split: classes, held-out images, limits, and a mixed order."""

import math
import unicodedata
from collections import Counter
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
    _choose_classes(listing, source, data.classes or None)
    if not listing.one("SELECT COUNT(*) FROM files WHERE split = 'val'")[0]:
        _hold_out(listing, data.val_fraction)
    listing.connection.execute("UPDATE files SET split = 'train' WHERE split IS NULL")
    for split, limit in (("train", data.train_limit), ("val", data.val_limit)):
        listing.connection.execute(
            f"""
            INSERT INTO chosen SELECT ?, ROW_NUMBER() OVER (ORDER BY bundle, key, id) - 1, id FROM (
                SELECT id, bundle, key, ROW_NUMBER() OVER (PARTITION BY class ORDER BY key, id) AS rank
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
        chosen = _named_classes(list(map(str, wanted)), ordered, source.readable)
        ordered = [name for name in ordered if name in chosen]
    elif wanted is not None:
        ordered = ordered[:wanted]
    readable = {name: _composed(source.readable.get(name, name)) for name in ordered}
    shared = Counter(readable.values())
    rows = [
        (label, name, shown if shared[shown] == 1 else f"{shown} ({name})")
        for label, (name, shown) in enumerate(readable.items())
    ]
    listing.connection.executemany("INSERT INTO classes VALUES (?, ?, ?)", rows)


def _named_classes(wanted: list[str], present: list[str], readable: dict[str, str]) -> set[str]:
    """The classes that a user calls by their own names or by those for people. Raises PrologueError as the caller."""
    called: dict[str, list[str]] = {}
    for name in present:
        called.setdefault(_composed(readable.get(name, name)), []).append(name)
    found = {name: [name] if name in present else called.get(_composed(name), []) for name in wanted}
    missing = [name for name, classes in found.items() if not classes]
    if missing:
        raise PrologueError(f"it has no classes {name_some(missing)} of data.classes; it has {name_some(present)}")
    for name, classes in found.items():
        if len(classes) > 1:
            raise PrologueError(f"data.classes: {len(classes)} classes are called {name}; name {' or '.join(classes)}")
    return {classes[0] for classes in found.values()}


def _composed(name: str) -> str:
    """A name in Unicode's composed form, so that names that look alike are alike."""
    return unicodedata.normalize("NFC", name)


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
    own = {name: min(max(round(fraction * count), min(least, count // 2)), count - 1) for name, count in counts}
    missing = MIN_VALIDATION - sum(own.values())
    for name, count in sorted(counts, key=lambda item: -item[1]):  # what small classes lack, the largest give
        more = max(0, min(missing, count // 2 - own[name]))
        own[name], missing = own[name] + more, missing - more
    listing.connection.execute("CREATE TEMP TABLE held_out (name TEXT PRIMARY KEY, count INTEGER)")
    listing.connection.executemany("INSERT INTO held_out VALUES (?, ?)", own.items())
    listing.note("held out", "", sum(own.values()), "from the training images, since no part of the source validates")
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
        if listing.notes("held out"):
            raise PrologueError("it has one image per class, so none can be held out; add val/")
        raise PrologueError("its part to validate on has no image of the chosen classes; see data.classes")


def name_some(names: Iterable[str]) -> str:
    """The first few of some names, for a message."""
    first, *others = sorted(names)
    shown = ", ".join([first, *others[: NAMED_IN_ERROR - 1]])
    return shown + (", ..." if len(others) >= NAMED_IN_ERROR else "")
