"""Real pixels in a terminal: three escape sequences that some terminals draw as a picture.

Each function gives the whole text that draws an RGB image where the cursor stands. What follows is
written by the caller: a newline, which takes every one of these terminals below the picture.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

KITTY_CHUNK = 4096  # characters of base64 that one sequence may carry
SIXEL_COLORS = 256
SIXEL_ROWS = 6  # pixels one above the other in a character


def kitty(image: Image, columns: int, rows: int) -> str:
    """Kitty's graphics protocol (sw.kovidgoyal.net/kitty/graphics-protocol): a PNG in chunks.

    The picture is scaled to the cells. `q=2` asks for no reply, which would arrive as typed keys.
    """
    data = base64.b64encode(_png(image)).decode("ascii")
    chunks = [data[at : at + KITTY_CHUNK] for at in range(0, len(data), KITTY_CHUNK)]
    keys = [f"a=T,f=100,q=2,c={columns},r={rows},"] + [""] * (len(chunks) - 1)
    more = ["m=1"] * (len(chunks) - 1) + ["m=0"]
    return "".join(
        f"\x1b_G{key}{last};{chunk}\x1b\\"
        for key, last, chunk in zip(keys, more, chunks, strict=True)
    )


def iterm2(image: Image, columns: int, rows: int) -> str:
    """iTerm2's inline images (iterm2.com/documentation-images.html): one whole PNG."""
    png = _png(image)
    data = base64.b64encode(png).decode("ascii")
    keys = f"inline=1;size={len(png)};width={columns};height={rows};preserveAspectRatio=0"
    return f"\x1b]1337;File={keys}:{data}\x07"


def sixel(image: Image) -> str:
    """DEC's sixels (vt100.net/docs/vt3xx-gp/chapter14.html): bands of six rows, colour by colour.

    There is no scaling: the image is drawn pixel by pixel, with a palette of its own.
    """
    import numpy as np

    indexed = image.quantize(SIXEL_COLORS)
    pixels = np.asarray(indexed)  # (H, W) palette numbers
    palette = indexed.getpalette() or []
    used = [int(color) for color in np.unique(pixels)]
    defined = "".join(_sixel_color(color, palette) for color in used)
    bands = (pixels[top : top + SIXEL_ROWS] for top in range(0, image.height, SIXEL_ROWS))
    drawn = "-".join("$".join(_sixel_band(band)) for band in bands)  # $ back to the left, - down
    return f'\x1bP0;1q"1;1;{image.width};{image.height}{defined}{drawn}\x1b\\'


def _sixel_color(number: int, palette: list[int]) -> str:
    """The definition of a palette entry: red, green and blue in per cent."""
    percent = (round(value * 100 / 255) for value in palette[3 * number : 3 * number + 3])
    return "#{};2;{};{};{}".format(number, *percent)


def _sixel_band(band: object) -> Iterator[str]:
    """One pass over the band (up to 6, W) for each of its colours.

    A character is six pixels, the highest in the lowest bit, counted from `?`.
    """
    import numpy as np

    rows = np.asarray(band)
    weights = 1 << np.arange(len(rows), dtype=np.uint8)[:, None]
    for color in np.unique(rows):
        bits = ((rows == color) * weights).sum(axis=0, dtype=np.uint8)
        line = (bits + ord("?")).astype(np.uint8).tobytes().decode("ascii").rstrip("?")
        yield f"#{color}" + re.sub(r"(.)\1{3,}", _repeated, line)


def _repeated(run: re.Match[str]) -> str:
    """Four or more of one character, written as a count."""
    return f"!{len(run[0])}{run[1]}"


def _png(image: Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
