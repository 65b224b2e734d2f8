"""A picture of half blocks, which every UTF-8 terminal with colours can show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.color import Color
from rich.style import Style
from rich.text import Text

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlmchat.overlay import Mark

UPPER_HALF = "\u2580"  # in the colour of the text; the lower half shows the background


def half_blocks(image: Image, marks: Sequence[Mark] = ()) -> Text:
    """An RGB image, two pixels to a cell (one above the other), and the marks over it as letters.

    Rich writes each colour as the console has it: exact, or the nearest of 256 or of 16.
    """
    data = image.tobytes()
    letters = _letters(image.width, image.height // 2, marks)
    text = Text()
    for row in range(image.height // 2):
        for column in range(image.width):
            upper = 3 * (2 * row * image.width + column)
            lower = upper + 3 * image.width
            style = Style(color=_color(data, upper), bgcolor=_color(data, lower))
            text.append(*letters.get((column, row), (UPPER_HALF, style)))
        text.append("\n")
    return text


def _letters(
    columns: int, rows: int, marks: Sequence[Mark]
) -> dict[tuple[int, int], tuple[str, Style]]:
    """The cell, letter and colours of each mark; where two meet, the first stays whole."""
    cells: dict[tuple[int, int], tuple[str, Style]] = {}
    for mark in marks:
        style = Style(color="black", bgcolor=Color.from_rgb(*mark.color), bold=True)
        row = min(int(mark.y * rows), rows - 1)
        start = max(0, min(int(mark.x * columns), columns - len(mark.text)))
        for column, letter in enumerate(mark.text, start):
            if column < columns:
                cells.setdefault((column, row), (letter, style))
    return cells


def _color(data: bytes, at: int) -> Color:
    red, green, blue = data[at : at + 3]
    return Color.from_rgb(red, green, blue)
