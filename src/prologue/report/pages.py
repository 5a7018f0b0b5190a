"""What every page of the site shares: templates, pictures, and numbers as text."""

import base64
import io
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from prologue.core.errors import PrologueError
from prologue.core.files import replacing


def write_page(template: str, output: Path, root: str, **content: Any) -> str:
    """Render a template to an HTML file; returns the page.

    Args:
        template: file name in prologue/report/templates.
        output: the HTML file.
        root: relative address of reports/ as seen from the page, such as '../'.
        content: what the template shows.
    """
    environment = Environment(
        loader=PackageLoader("prologue.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(root=root, **content)
    with replacing(output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return page


def read_picture(path: Path) -> dict[str, Any]:
    """A PNG file as in `embedded`. Raises PrologueError for a file that is no image."""
    try:
        with Image.open(path) as image:
            size = image.size
    except OSError as error:
        raise PrologueError(f"{path} is no image ({error}); run the stage that draws it again") from None
    return _embedded(path.read_bytes(), size)


def embedded(image: Image.Image) -> dict[str, Any]:
    """A picture as PNG in a data URI: source, width and height in px."""
    file = io.BytesIO()
    image.save(file, "png")
    return _embedded(file.getvalue(), image.size)


def _embedded(png: bytes, size: tuple[int, int]) -> dict[str, Any]:
    return {
        "source": f"data:image/png;base64,{base64.b64encode(png).decode()}",
        "width": size[0],
        "height": size[1],
    }


def text(value: Any, exact: bool = False) -> str:
    """A value of a metrics file in words; numbers shortened unless `exact`."""
    if isinstance(value, list):
        return ", ".join(text(item, exact) for item in value)
    return number(value) if isinstance(value, int | float) and not exact else str(value)


def number(value: float) -> str:
    """Four significant digits; counts in full."""
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:.4g}"


def ends(interval: tuple[float, float]) -> str:
    """A 95 % interval."""
    return f"[{number(interval[0])}, {number(interval[1])}]"


def percent(share: float) -> str:
    """A share in percent."""
    return f"{100 * share:.1f} %"


def duration(seconds: float) -> str:
    """Seconds in the two largest fitting units."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
