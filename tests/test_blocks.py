"""Half blocks: two pixels to a cell, letters over them, in the colours that a console has."""

import io

import pytest
from PIL import Image
from rich.console import Console

from vlmchat.overlay import Mark
from vlmchat.terminal.blocks import half_blocks

RED = (255, 0, 0)


def four(high):
    """Red and green above blue and white."""
    image = Image.new("RGB", (2, 2))
    image.putdata([(high, 0, 0), (0, high, 0), (0, 0, high), (high, high, high)])
    return image


def written(text, system):
    console = Console(file=io.StringIO(), force_terminal=True, color_system=system, width=80)
    console.print(text, end="")
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("system", "high", "expected"),  # rich remembers how it wrote a colour: each case has its own
    [
        (
            "truecolor",
            255,
            "\x1b[38;2;255;0;0;48;2;0;0;255m▀\x1b[0m\x1b[38;2;0;255;0;48;2;255;255;255m▀\x1b[0m\n",
        ),
        ("256", 254, "\x1b[38;5;196;48;5;21m▀\x1b[0m\x1b[38;5;46;48;5;231m▀\x1b[0m\n"),
        ("standard", 253, "\x1b[31;44m▀\x1b[0m\x1b[32;107m▀\x1b[0m\n"),
    ],
)
def test_a_cell_is_two_pixels(system, high, expected):
    assert written(half_blocks(four(high)), system) == expected


@pytest.mark.parametrize(
    ("marks", "rows"),
    [
        ([Mark("1", 0.0, 0.0, RED)], ["1▀▀▀▀", "▀▀▀▀▀", "▀▀▀▀▀"]),
        ([Mark("12", 0.5, 0.4, RED)], ["▀▀▀▀▀", "▀▀12▀", "▀▀▀▀▀"]),
        ([Mark("12", 1.0, 1.0, RED)], ["▀▀▀▀▀", "▀▀▀▀▀", "▀▀▀12"]),
        ([Mark("1", 0.0, 0.0, RED), Mark("2", 0.0, 0.0, RED)], ["1▀▀▀▀", "▀▀▀▀▀", "▀▀▀▀▀"]),
        ([Mark("1234567", 0.9, 0.0, RED)], ["12345", "▀▀▀▀▀", "▀▀▀▀▀"]),
    ],
)
def test_marks_stand_where_they_belong(marks, rows):
    assert half_blocks(Image.new("RGB", (5, 6)), marks).plain.splitlines() == rows
