"""What a source was found to hold, and what became of all of it: for the manifest, and on one screen."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from prologue.data.listing import Listing

SHOWN = 10  # classes, files or folders of a kind on the screen; the manifest has all


def what_was_found(listing: Listing) -> dict[str, Any]:
    """The manifest's part `found`: parts, held-out images, what was left aside or ignored and why, and warnings."""
    ignored: dict[str, dict[str, int]] = {}
    for name, count, reason in listing.notes("ignored"):
        ignored.setdefault(reason, {})[name] = count
    held_out = [{"images": count, "reason": reason} for _, count, reason in listing.notes("held out")]
    return {
        "parts": [{"name": name, "images": count, "split": split} for name, count, split in listing.notes("part")],
        "held_out": held_out[0] if held_out else None,
        "left_aside": [{"name": n, "count": count, "reason": why} for n, count, why in listing.notes("aside")],
        "ignored": ignored,
        "warnings": [reason for *_, reason in listing.notes("warning")],
    }


def print_found(manifest: dict[str, Any], kind: str, source: Path) -> None:
    """Print what became of a source, by its manifest."""
    console = Console(highlight=False)
    console.print(f"{source}: {kind}", markup=False)
    table = Table("class", "training", "validation")
    counts = list(zip(manifest["class_names"], *manifest["images_per_class"].values(), strict=True))
    for name, *own in counts[:SHOWN]:
        table.add_row(escape(name), *map(str, own))
    if len(counts) > SHOWN:
        rest = [str(sum(column)) for column in list(zip(*counts[SHOWN:], strict=True))[1:]]
        table.add_row(f"and {len(counts) - SHOWN} more", *rest)
    table.add_row(
        f"{len(counts)} classes", str(manifest["train"]["images"]), str(manifest["val"]["images"]), style="bold"
    )
    console.print(table)
    for line in _lines(manifest):
        console.print(line, markup=False)


def _lines(manifest: dict[str, Any]) -> list[str]:
    """What else is to be said, a sentence each."""
    found = manifest["found"]
    used = {"train": "trained on", "val": "validated on"}
    lines = [f"{part['name']} is {used[part['split']]}" for part in found["parts"]]
    if found["held_out"]:
        lines.append(f"{found['held_out']['images']} images were held out {found['held_out']['reason']}")
    lines += _some(
        [f"{item['name']} left aside: {item['count']} files; {item['reason']}" for item in found["left_aside"]]
    )
    for reason, counts in found["ignored"].items():
        named = ", ".join(_some([f"{name} {count}" for name, count in counts.items()]))
        what = "of the system" if reason == "system" else "that are no images by name"
        lines.append(f"{sum(counts.values())} files {what} were ignored: {named}")
    lines += _some([f"Warning: {text}" for text in found["warnings"]])
    rejected = manifest["rejected"]
    if rejected:
        lines.append(f"{len(rejected)} files cannot be used:")
        lines += _some([f"  {item['path']}: {item['reason']}" for item in rejected])
    return lines


def _some(lines: list[str]) -> list[str]:
    """The first few of some lines."""
    rest = len(lines) - SHOWN
    return lines[:SHOWN] + ([f"... and {rest} more, in the manifest"] if rest > 0 else [])
