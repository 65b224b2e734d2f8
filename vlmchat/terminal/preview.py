"""A small picture of an image, drawn with the half blocks that every UTF-8 terminal has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.color import Color
from rich.style import Style
from rich.text import Text

if TYPE_CHECKING:
    from PIL.Image import Image

COLUMNS, ROWS = 40, 15  # at most
UPPER_HALF = "\u2580"  # in the colour of the text; the lower half shows the background


def half_blocks(image: Image, columns: int = COLUMNS, rows: int = ROWS) -> Text:
    """The whole RGB image within so many cells, in its own proportions.

    A cell is about twice as high as wide, so that it holds two square pixels, one above the other.
    """
    scale = min(columns / image.width, 2 * rows / image.height)
    width = max(1, round(image.width * scale))
    height = max(1, round(image.height * scale / 2))
    small = image.resize((width, 2 * height))
    text = Text()
    for y in range(0, 2 * height, 2):
        for x in range(width):
            text.append(
                UPPER_HALF, Style(color=_color(small, x, y), bgcolor=_color(small, x, y + 1))
            )
        text.append("\n")
    return text


def _color(image: Image, x: int, y: int) -> Color:
    red, green, blue = image.getpixel((x, y))  # type: ignore[misc]  # RGB: three numbers
    return Color.from_rgb(red, green, blue)
