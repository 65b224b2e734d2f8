"""Pixels in escape sequences: what a terminal would read out of them is the picture again."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from vlmchat.terminal.protocols import KITTY_CHUNK, iterm2, kitty, sixel


def noise(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def opened(data):
    return Image.open(io.BytesIO(base64.b64decode(data, validate=True))).convert("RGB")


@pytest.mark.parametrize("size", [(1, 1), (90, 60)])
def test_kitty_reads_the_picture_out_of_the_chunks(size):
    image = noise(*size)
    parts = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", kitty(image, 12, 5))
    keys = [dict(pair.split("=") for pair in keys.split(",")) for keys, _ in parts]
    more = [key.pop("m") for key in keys]
    assert keys[0] == {"a": "T", "f": "100", "q": "2", "c": "12", "r": "5"}
    assert keys[1:] == [{}] * (len(parts) - 1)
    assert more == ["1"] * (len(parts) - 1) + ["0"]
    chunks = [chunk for _, chunk in parts]
    assert all(len(chunk) <= KITTY_CHUNK for chunk in chunks)
    assert all(len(chunk) % 4 == 0 for chunk in chunks[:-1])
    assert opened("".join(chunks)).tobytes() == image.tobytes()


def test_iterm2_reads_the_picture_out_of_one_sequence():
    image = noise(40, 30)
    head, data = re.fullmatch(r"\x1b\]1337;File=([^:]*):(.*)\x07", iterm2(image, 12, 5)).groups()
    assert opened(data).tobytes() == image.tobytes()
    size = len(base64.b64decode(data))
    assert head == f"inline=1;size={size};width=12;height=5;preserveAspectRatio=0"


def read_sixel(text):
    """What a terminal draws: (H, W, 3) in per cent, read character by character."""
    start, body = re.fullmatch(r'\x1bP0;1q"1;1;(\d+;\d+)(.*)\x1b\\', text).groups()
    width, height = map(int, start.split(";"))
    drawn = np.full((height + 6, width, 3), -1)
    colors, color, x, y = {}, None, 0, 0
    for token in re.findall(r"#\d+(?:;\d+)*|!\d+.|[?-~$-]", body):
        if token[0] == "#":
            color, *definition = map(int, token[1:].split(";"))
            if definition:
                assert definition[0] == 2
                colors[color] = definition[1:]
        elif token == "$":
            x = 0
        elif token == "-":
            x, y = 0, y + 6
        else:
            count = int(token[1:-1]) if token[0] == "!" else 1
            for bit in range(6):
                if (ord(token[-1]) - 63) >> bit & 1:
                    drawn[y + bit, x : x + count] = colors[color]
            x += count
    assert (drawn[height:] == -1).all()
    return drawn[:height]


@pytest.mark.parametrize("size", [(1, 1), (7, 6), (50, 23)])
def test_sixels_draw_the_picture_in_its_palette(size):
    image = noise(*size)
    palette = np.asarray(image.quantize(256).convert("RGB")).astype(int)
    assert (read_sixel(sixel(image)) == np.round(palette * 100 / 255)).all()


def test_sixels_of_one_colour_are_short():
    image = Image.new("RGB", (300, 12), (255, 0, 0))
    assert sixel(image) == '\x1bP0;1q"1;1;300;12#0;2;100;0;0#0!300~-#0!300~\x1b\\'
