"""The measured watermark as files, and as a section of the report where it was measured on the run's own model."""

from pathlib import Path
from typing import Any, NamedTuple

from prologue.core.files import read_json, write_json
from prologue.figures.watermark import draw_watermark
from prologue.measures.registry import Metrics
from prologue.report.pages import ends, number, percent, read_picture
from prologue.studies.text import markdown_table

NAME = "watermark"  # of the files: .json, .md, .svg and .png


class Table(NamedTuple):
    """A table of text."""

    caption: str
    head: list[str]
    rows: list[list[str]]


def write_watermark(found: dict[str, Any], command: str, folder: Path) -> Path:
    """Write what `measure_watermark` found to a folder: numbers, tables and charts; returns the file of the tables.

    `command` is what makes them again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{NAME}.json", {**found, "command": command})
    draw_watermark(found, folder / NAME)
    parts = [
        "# The watermark, measured",
        f"Model {found['weights_sha256'][:12]}, {found['images']} images, seed {found['seed']}; made by `{command}`.",
        *(f"{table.caption}\n\n{markdown_table(table.head, table.rows)}" for table in tables(found)),
    ]
    path = folder / f"{NAME}.md"
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


def read_watermark(folder: Path, metrics: Metrics) -> dict[str, Any] | None:
    """Command, tables and picture of a measured watermark; None where it was measured on another model."""
    path = folder / f"{NAME}.json"
    if not path.is_file():
        return None
    found = read_json(path)
    if found["weights_sha256"] != metrics.get("samples", {}).get("weights_sha256"):
        return None
    return {"command": found["command"], "tables": tables(found), "picture": read_picture(folder / f"{NAME}.png")}


def tables(found: dict[str, Any]) -> list[Table]:
    """Found after damage and the cost, by strength; then the images without a mark, by p-value."""
    plain = found["unmarked"]
    distance = next(key for key in plain if key != "interval")
    without = f"{number(plain[distance])} {_within(plain['interval'][distance])}"
    strengths = list(found["detection"])
    rows = [
        [damage, *(f"{percent(own['found'])} [{100 * own['low']:.1f}, {100 * own['high']:.1f}]" for own in shares)]
        for damage, shares in (
            (damage, [found["detection"][strength][damage] for strength in strengths])
            for damage in found["detection"][strengths[0]]
        )
    ]
    costs = [found["cost"][strength] for strength in strengths]
    rows.append([distance, *(f"{number(own[distance])} {_within(own['interval'][distance])}" for own in costs)])
    rows.append(["of which the mark", *(f"{own['added']:+.1f} {_within(own['added_interval'])}" for own in costs)])
    detection = Table(
        f"Marked images that are found (p up to {found['level']:g}), by damage, and their Frechet distance to real "
        f"images, which is {without} without a mark; 95 % intervals.",
        ["", *(f"strength {strength}" for strength in strengths)],
        rows,
    )
    levels = next(iter(found["false_positives"].values()))["levels"]
    unmarked = Table(
        f"Images without a mark whose p-value is at most so large: mean over {found['keys']} keys (least to most of "
        "any key). At most as many as the p-value says is right.",
        ["", *(f"p up to {level}" for level in levels)],
        [
            [
                f"{shares['images']} {name} images, {shares['counted_tokens']:.0f} tokens counted in the mean",
                *(
                    f"{100 * own['mean']:.2f} % ({100 * own['least']:.2f} to {100 * own['most']:.2f})"
                    for own in shares["levels"].values()
                ),
            ]
            for name, shares in found["false_positives"].items()
        ],
    )
    return [detection, unmarked]


def _within(interval: dict[str, float]) -> str:
    return ends((interval["low"], interval["high"]))
