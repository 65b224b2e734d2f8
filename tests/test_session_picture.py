"""The README's picture: a screen's cells as squares and letters, and a session in a real tmux."""

import re
import shlex
import shutil
import sys
from xml.etree import ElementTree

import pytest
from PIL import Image

from examples.session_picture import record, without_gap
from examples.terminal_svg import to_svg

NEEDS_TMUX = pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")
SVG = "{http://www.w3.org/2000/svg}"


def drawn(screen, columns=20):
    """The paths (colour, squares) and texts (x, y, colour, width, text) of a screen."""
    root = ElementTree.fromstring(to_svg(screen, columns, "a <title>"))
    paths = [(each.get("fill"), each.get("d")) for each in root.iter(f"{SVG}path")]
    keys = ("x", "y", "fill", "textLength")
    texts = [
        (*(each.get(key) for key in keys), each.text, each.get("font-weight"))
        for each in root.iter(f"{SVG}text")
    ]
    return paths, texts


def test_a_half_block_is_two_squares():
    paths, texts = drawn("\x1b[38;2;255;0;0;48;2;0;0;255m\u2580\u2580\x1b[0m")
    assert paths == [("#ff0000", "M0 0h16v8h-16z"), ("#0000ff", "M0 8h16v8h-16z")]
    assert texts == []


def test_words_stand_where_their_cells_are():
    _, texts = drawn("ab  <c>\n\x1b[1m\x1b[38;2;1;2;3md\x1b[0m 生 e")
    assert [(x, y, width, text, weight) for x, y, _, width, text, weight in texts] == [
        ("0", "12", "16", "ab", None),
        ("32", "12", "24", "<c>", None),
        ("0", "28", "8", "d", "bold"),
        ("16", "28", "16", "生", None),
        ("40", "28", "8", "e", None),
    ]
    assert texts[2][2] == "#010203"


def test_dim_and_reversed_words_have_their_colours():
    paths, texts = drawn("\x1b[2mdim\x1b[0m \x1b[7mx\x1b[0m")
    dim, dark = (text[2] for text in texts)
    plain = drawn("x")[1][0][2]
    assert paths == [(plain, "M32 0h8v8h-8zM32 8h8v8h-8z")]
    assert len({plain, dim, dark}) == 3


def test_rows_between_the_prompt_and_the_toolbar_are_left_out():
    assert without_gap("a\n\nb\n>>>\n\n\n bar") == "a\n\nb\n>>>\n bar"


@NEEDS_TMUX
def test_a_session_in_a_real_terminal(tmp_path):
    Image.new("RGB", (64, 48), "red").save(tmp_path / "cat.png")
    command = shlex.join([sys.executable, "-m", "tests.chat", "--image", "cat.png"])
    lines = ["what ; now ?", "/raw <loc0000><loc0000><loc0512><loc0512> cat"]
    shown = record(command, lines, columns=100, rows=18, seconds=60, folder=tmp_path)
    words = re.sub(r"\x1b\[[\d;]*m", "", shown)
    assert "you asked: answer en what ; now ? !\n" in words
    assert "1  (0, 0) to (32, 24)  61%  cat !\n" in words
    assert words.count("\u2580" * 10) > 10
    assert words.splitlines()[-2] == ">>>"
    assert "cat.png 64x48 | kv: 18 tokens kept" in words.splitlines()[-1]
    paths, _ = drawn(shown, 100)
    assert "#ff0000" in dict(paths)
