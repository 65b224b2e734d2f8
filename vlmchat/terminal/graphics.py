"""Pictures in a terminal: how large, and in which of the ways that the terminal knows."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from vlmchat.terminal import detect, protocols
from vlmchat.terminal.blocks import half_blocks

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import Console

    from vlmchat.overlay import Scene
    from vlmchat.terminal.detect import Kind

KINDS = ("auto", "blocks", "kitty", "iterm2", "sixel", "off")
COLUMNS, ROWS = 72, 24  # cells that a picture takes at most
SHARE = 2 / 3  # of the window's height, so that the question stays in sight
USUAL_CELL = (10, 20)  # pixels, where the terminal does not tell


@dataclass(frozen=True)
class Window:
    """A terminal's window in cells, and one cell in pixels (width, height)."""

    columns: int
    rows: int
    cell: tuple[int, int] = USUAL_CELL

    def room(self) -> tuple[int, int]:
        """Columns and rows that a picture may take."""
        return max(1, min(COLUMNS, self.columns)), max(1, min(ROWS, int(self.rows * SHARE)))


def cell_of(stream: TextIO) -> tuple[int, int]:
    """Pixels of one cell, from the size in pixels that many terminals report to the system."""
    if sys.platform == "win32":
        return USUAL_CELL
    import fcntl
    import struct
    import termios

    try:
        packed = fcntl.ioctl(stream.fileno(), termios.TIOCGWINSZ, bytes(8))
    except (OSError, ValueError):
        return USUAL_CELL
    rows, columns, width, height = struct.unpack("HHHH", packed)
    if not (rows and columns and width >= columns and height >= rows):
        return USUAL_CELL
    return width // columns, height // rows


def fit(size: tuple[int, int], window: Window) -> tuple[int, int]:
    """Columns and rows for an image of that size (width, height), in its own proportions."""
    width, height = size
    columns, rows = window.room()
    cell_width, cell_height = window.cell
    scale = min(columns * cell_width / width, rows * cell_height / height)
    return (
        max(1, min(columns, round(width * scale / cell_width))),
        max(1, min(rows, round(height * scale / cell_height))),
    )


def choose(wanted: str, stream: TextIO) -> detect.Answer:
    """The kind of pictures for what `--graphics` says; `auto` looks around and may ask."""
    if wanted != "auto":
        return detect.Answer(_named(wanted))
    known = detect.by_environment(os.environ)
    if known is not None:
        return detect.Answer(known)
    if sys.stdin is None or not sys.stdin.isatty():
        return detect.Answer("blocks")
    return detect.ask(sys.stdin.fileno(), stream.fileno())


def _named(wanted: str) -> Kind:
    kinds: dict[str, Kind] = {"kitty": "kitty", "iterm2": "iterm2", "sixel": "sixel"}
    return kinds.get(wanted, "blocks")


def render(scene: Scene, kind: Kind, window: Window, console: Console) -> str:
    """A picture and what is drawn over it, as the text that shows it, final newline included.

    It is drawn at the size at which it is shown, so that lines and letters stay sharp.
    """
    if kind == "blocks":
        columns, rows = fit(scene.image.size, Window(window.columns, window.rows, (1, 2)))
        small = scene.paint(_resized(scene.image, (columns, 2 * rows)))
        with console.capture() as drawn:
            console.print(half_blocks(small, scene.marks), end="", soft_wrap=True)
        return drawn.get()
    columns, rows = fit(scene.image.size, window)
    pixels = (columns * window.cell[0], rows * window.cell[1])
    image = scene.paint(_resized(scene.image, pixels))
    if kind == "sixel":
        return protocols.sixel(image) + "\n"
    draw = protocols.kitty if kind == "kitty" else protocols.iterm2
    return _through_tmux(draw(image, columns, rows), rows) + "\n"


def _resized(image: Image, size: tuple[int, int]) -> Image:
    """The image at another size; Hamming's filter leaves no bright edges around small shapes."""
    from PIL.Image import Resampling

    kind = Resampling.HAMMING if size[0] < image.width else Resampling.BICUBIC
    return image if image.size == size else image.resize(size, kind, reducing_gap=3.0)


def _through_tmux(sequence: str, rows: int) -> str:
    """Inside tmux (where nobody draws pixels unless told to): wrapped so that tmux lets it pass.

    tmux needs `set -g allow-passthrough on`, and does not know that rows were taken.
    """
    if "TMUX" not in os.environ:
        return sequence
    wrapped = sequence.replace("\x1b", "\x1b\x1b")
    return f"\x1bPtmux;{wrapped}\x1b\\" + "\n" * (rows - 1)
