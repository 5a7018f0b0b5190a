"""A page of the training curves as they grow, for `prologue watch`."""

import base64
import html
import time
from contextlib import suppress
from pathlib import Path

from pandas.errors import EmptyDataError

from prologue.core.errors import PrologueError
from prologue.core.files import replacing
from prologue.core.work import work_root
from prologue.figures.curves import training_curves

PAGE = "curves.html"
HEAD = """<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="{seconds}">
<meta name="viewport" content="width=device-width"><title>Training curves</title>
<style>body {{ font: 16px system-ui, sans-serif; margin: 1rem; }} img {{ max-width: 100%; }}</style>
"""


def watch(seconds: int) -> None:
    """Write the page again every few seconds until Ctrl-C. Raises PrologueError where nothing was ever trained."""
    page = write_page(seconds)
    print(f"{page.resolve()} is written every {seconds} s; open it in a browser. Ctrl-C ends this, not the training.")
    try:
        while True:
            time.sleep(seconds)
            with suppress(OSError, PrologueError, EmptyDataError):  # a training begins or resumes: the page stays
                write_page(seconds)
    except KeyboardInterrupt:
        print()


def write_page(seconds: int) -> Path:
    """Write the curves of every training in .work, newest first. Raises PrologueError where there are none.

    Returns the page.
    """
    root = work_root()
    folders = sorted(root.glob("*/*/curves"), key=lambda folder: folder.stat().st_mtime, reverse=True)
    sections = [section for section in map(_section, folders) if section]
    if not sections:
        raise PrologueError(f"no training has logged a point to {root} yet: start `dvc repro` first")
    with replacing(root / PAGE) as temporary:
        temporary.write_text(HEAD.format(seconds=seconds) + "\n".join(sections), encoding="utf-8")
    return root / PAGE


def _section(curves: Path) -> str:
    """Heading, charts and newest picture of one training; empty before its first point."""
    charts = training_curves(curves, f"{curves.parent.parent.name}-{curves.parent.name}")
    if charts is None:
        return ""
    title = html.escape(f"{curves.parent.parent.name} {curves.parent.name}")
    pictures = sorted((curves / "plots" / "images").glob("*.png"))
    picture = ""
    if pictures:
        data = base64.b64encode(pictures[-1].read_bytes()).decode()
        picture = f'<p><img alt="{html.escape(pictures[-1].stem)}" src="data:image/png;base64,{data}"></p>'
    return f"<h1>{title}</h1>\n{charts}\n{picture}"
