"""What a terminal draws: by its environment, by its answer, and without eating what is typed."""

import os
import sys
import threading

import pytest

from vlmchat.terminal import detect
from vlmchat.terminal.detect import Answer, by_environment, understand

KITTY_YES = "\x1b_Gi=31;OK\x1b\\"
KITTY_NO = "\x1b_Gi=31;ENOTSUPPORTED:no\x1b\\"
XTERM = "\x1b[?64;1;2;6;9;15;18;21;22c"
XTERM_SIXEL = "\x1b[?64;1;2;4;6;9;15;18;21;22c"

ENVIRONMENTS = [
    ({}, None),
    ({"TERM": "xterm-256color"}, None),
    ({"TERM": "xterm-kitty"}, "kitty"),
    ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
    ({"TERM": "xterm-ghostty", "TERM_PROGRAM": "ghostty"}, "kitty"),
    ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm2"),
    ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, "iterm2"),
    ({"TERM_PROGRAM": "WezTerm"}, "iterm2"),
    ({"TERM": "foot"}, "sixel"),
    ({"TERM": "xterm-256color", "TERM_PROGRAM": "Apple_Terminal"}, "blocks"),
    ({"TERM": "linux"}, "blocks"),
    ({"TERM": "screen-256color", "KITTY_WINDOW_ID": "1"}, "blocks"),
    ({"TERM": "xterm-kitty", "TMUX": "/tmp/tmux-0/default,1,0"}, "blocks"),
]


@pytest.mark.parametrize(("environment", "kind"), ENVIRONMENTS)
def test_the_environment_says(environment, kind):
    assert by_environment(environment) == kind


ANSWERS = [
    ("", Answer("blocks")),
    (XTERM, Answer("blocks")),
    (XTERM_SIXEL, Answer("sixel")),
    ("\x1b[?4c", Answer("sixel")),
    ("\x1b[?1;14;41c", Answer("blocks")),
    (KITTY_YES + XTERM, Answer("kitty")),
    (KITTY_YES + XTERM_SIXEL, Answer("kitty")),
    (KITTY_NO + XTERM_SIXEL, Answer("sixel")),
    ("abc\n", Answer("blocks", "abc\n")),
    ("what" + KITTY_YES + " is\r" + XTERM + "é生", Answer("kitty", "what is\ré生")),
    ("\x1b[A" + XTERM + "\x1b[200~x", Answer("blocks", "\x1b[A\x1b[200~x")),
    ("typed\x1b[?64;1", Answer("blocks", "typed")),
    ("typed\x1b_Gi=31;O", Answer("blocks", "typed")),
]


@pytest.mark.parametrize(("said", "answer"), ANSWERS)
def test_answers_are_told_from_typing(said, answer):
    assert understand(said) == answer


needs_pty = pytest.mark.skipif(sys.platform == "win32", reason="no terminals of that kind here")


@pytest.fixture
def terminal(monkeypatch):
    """A pty: what the terminal's side reads and writes, and the program's side.

    The test's own process cannot be the foreground of a terminal it made, so that is not asked.
    """
    import pty

    outside, inside = pty.openpty()
    monkeypatch.setattr(detect, "same_terminal", lambda reads, writes: True)
    yield outside, inside
    os.close(outside)
    os.close(inside)


def play(outside, said):
    """Read the question, then say something."""

    def answer():
        asked = b""
        while not asked.endswith(b"\x1b[c"):
            asked += os.read(outside, 1000)
        os.write(outside, said.encode())

    thread = threading.Thread(target=answer)
    thread.start()
    return thread


@needs_pty
@pytest.mark.parametrize(
    ("said", "kind"),
    [(KITTY_YES + XTERM, "kitty"), (XTERM_SIXEL, "sixel"), (XTERM, "blocks")],
)
def test_a_terminal_is_asked_and_what_was_typed_comes_back(terminal, said, kind):
    import termios

    outside, inside = terminal
    before = termios.tcgetattr(inside)
    os.write(outside, b"typed before\nand")
    player = play(outside, " meanwhile" + said)
    assert detect.ask(inside, inside, wait=20) == Answer(kind, "typed before\nand meanwhile")
    player.join()
    assert termios.tcgetattr(inside) == before


@needs_pty
def test_a_terminal_that_says_nothing_is_not_waited_for(terminal):
    outside, inside = terminal
    os.write(outside, b"typed\n")
    assert detect.ask(inside, inside, wait=0.05) == Answer("blocks", "typed\n")


@needs_pty
def test_a_terminal_that_is_gone_is_a_terminal_without_pictures(terminal, monkeypatch):
    _, inside = terminal
    monkeypatch.setattr(detect.select, "select", lambda *_: ([inside], [], []))
    monkeypatch.setattr(detect.os, "read", lambda *_: b"")
    assert detect.ask(inside, inside, wait=20) == Answer("blocks")


@needs_pty
def test_the_terminal_is_as_it_was_after_an_interrupt(terminal, monkeypatch):
    import termios

    _, inside = terminal
    before = termios.tcgetattr(inside)

    def interrupt(*_):
        assert termios.tcgetattr(inside) != before
        raise KeyboardInterrupt

    monkeypatch.setattr(detect.select, "select", interrupt)
    with pytest.raises(KeyboardInterrupt):
        detect.ask(inside, inside)
    assert termios.tcgetattr(inside) == before


def test_a_pipe_is_never_asked():
    reads, writes = os.pipe()
    assert detect.ask(reads, writes) == Answer("blocks")
    os.close(writes)
    assert os.read(reads, 100) == b""
    os.close(reads)


@needs_pty
def test_two_terminals_are_not_asked_about_each_other():
    import pty

    ends = [*pty.openpty(), *pty.openpty()]
    assert not detect.same_terminal(ends[1], ends[3])
    for end in ends:
        os.close(end)
