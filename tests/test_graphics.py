"""How large a picture is drawn, and in which way: tables of windows and of wishes."""

import io
import os
import struct
import sys

import pytest
from PIL import Image
from rich.console import Console

from vlmchat.overlay import plain
from vlmchat.terminal import detect, graphics
from vlmchat.terminal.detect import Answer
from vlmchat.terminal.graphics import USUAL_CELL, Window, cell_of, choose, fit, render

SIZES = [
    # image, window's columns, rows and cell -> the picture's columns and rows
    ((224, 224), (80, 24, (10, 20)), (32, 16)),
    ((640, 480), (80, 24, (10, 20)), (43, 16)),
    ((640, 480), (200, 60, (10, 20)), (64, 24)),
    ((640, 480), (40, 24, (10, 20)), (40, 15)),
    ((640, 480), (40, 24, (8, 16)), (40, 15)),
    ((640, 480), (80, 24, (10, 10)), (21, 16)),
    ((100, 9000), (80, 24, (10, 20)), (1, 16)),
    ((9000, 100), (80, 24, (10, 20)), (72, 1)),
    ((1, 1), (1, 1, (1, 1)), (1, 1)),
]


@pytest.mark.parametrize(("size", "window", "cells"), SIZES)
def test_a_picture_fits_the_window_in_its_proportions(size, window, cells):
    assert fit(size, Window(*window)) == cells


def test_the_cell_is_what_the_terminal_reports():
    pty = pytest.importorskip("pty")
    import fcntl
    import termios

    outside, inside = pty.openpty()
    with os.fdopen(outside, "wb"), os.fdopen(inside, "w") as stream:
        assert cell_of(stream) == USUAL_CELL
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 720, 432))
        assert cell_of(stream) == (9, 18)
    assert cell_of(io.StringIO()) == USUAL_CELL


@pytest.fixture
def keyboard(monkeypatch):
    """A stdin that is a terminal, in an environment that says nothing; the questions asked."""

    class Keyboard(io.StringIO):
        def isatty(self):
            return True

        def fileno(self):
            return 7

    asked = []
    for variable, _, _ in detect.EVIDENCE:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(sys, "stdin", Keyboard())
    monkeypatch.setattr(detect, "ask", lambda *ends: asked.append(ends) or Answer("sixel", "abc"))
    return asked


class Terminal(io.StringIO):
    def fileno(self):
        return 8


def test_what_is_wanted_is_done_without_asking(keyboard, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-kitty")
    for wanted in ("blocks", "kitty", "iterm2", "sixel"):
        assert choose(wanted, Terminal()) == Answer(wanted)
    assert choose("auto", Terminal()) == Answer("kitty")
    assert keyboard == []


def test_a_terminal_that_the_environment_does_not_know_is_asked(keyboard):
    assert choose("auto", Terminal()) == Answer("sixel", "abc")
    assert keyboard == [(7, 8)]


@pytest.mark.parametrize("stdin", [None, io.StringIO("piped")])
def test_nobody_is_asked_where_nobody_types(keyboard, monkeypatch, stdin):
    monkeypatch.setattr(sys, "stdin", stdin)
    assert choose("auto", Terminal()) == Answer("blocks")
    assert keyboard == []


def drawn(kind, image, window=(80, 24)):
    console = Console(file=io.StringIO(), force_terminal=True, color_system="256", width=window[0])
    return render(plain(image), kind, Window(*window), console)


@pytest.mark.parametrize("columns", [5, 40, 200])
def test_no_line_of_blocks_is_wider_than_the_window(columns):
    lines = drawn("blocks", Image.new("RGB", (900, 300)), (columns, 30)).splitlines()
    assert {line.count("\u2580") for line in lines} == {min(columns, 72)}


def test_pixels_are_as_many_as_the_cells_have():
    assert '"1;1;320;320' in drawn("sixel", Image.new("RGB", (8, 8)))
    assert ";width=32;height=16;" in drawn("iterm2", Image.new("RGB", (8, 8)))
    assert ",c=32,r=16,m=" in drawn("kitty", Image.new("RGB", (8, 8)))


def test_tmux_lets_pixels_pass_only_in_a_wrapping(monkeypatch):
    monkeypatch.delenv("TMUX", raising=False)
    bare = drawn("kitty", Image.new("RGB", (8, 8)))
    monkeypatch.setenv("TMUX", "/tmp/tmux-0/default,1,0")
    wrapped = drawn("kitty", Image.new("RGB", (8, 8)))
    sequence = bare.removesuffix("\n").replace("\x1b", "\x1b\x1b")
    assert wrapped == f"\x1bPtmux;{sequence}\x1b\\" + 16 * "\n"


def test_the_flag_offers_what_there_is():
    from vlmchat.options import _command

    (flag,) = (option for option in _command.params if option.name == "graphics")
    assert tuple(flag.type.choices) == graphics.KINDS
