"""Pictures in real terminals (ptys) that answer as kitty, iTerm2, xterm and others do."""

import os
import re
import sys

import pytest
from PIL import Image

pexpect = pytest.importorskip("pexpect")
# Python 3.12 warns of forks beside threads; the child executes another program at once.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
ROOT = os.path.dirname(os.path.dirname(__file__))
PROMPT = ">>>"
QUESTION = "\x1b[c"
BOX = "<loc0000><loc0000><loc0512><loc0512> cat"
KITTY = "\x1b_Gi=31;OK\x1b\\\x1b[?62;c"
XTERM = "\x1b[?64;1;2;6;22c"
XTERM_SIXEL = "\x1b[?64;1;2;4;6;22c"


@pytest.fixture
def start(tmp_path):
    """A function that starts the scripted chat with an image in a pty."""
    Image.new("RGB", (640, 480), "red").save(tmp_path / "cat.png")
    children = []

    def start(*args, columns=100, **environment):
        said = ("VLMCHAT_", "NO_COLOR", "TERM", "TMUX", "KITTY", "LC_TERMINAL", "COLORTERM")
        plain = {k: v for k, v in os.environ.items() if not k.startswith(said)}
        child = pexpect.spawn(
            sys.executable,
            ["-m", "tests.chat", "--no-track", "--image", "cat.png", *args],
            cwd=tmp_path,
            env={
                **plain,
                "PYTHONPATH": os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "")]),
                "PROMPT_TOOLKIT_NO_CPR": "1",
                "TERM": "xterm-256color",
                "VLMCHAT_HISTORY": "",
                **environment,
            },
            encoding="utf-8",
            dimensions=(30, columns),
            timeout=30,
        )
        children.append(child)
        return child

    yield start
    for child in children:
        child.close(force=True)


def to_prompt(child):
    """Wait for the prompt; what the program wrote before it."""
    child.expect_exact(PROMPT)
    return child.before


def leave(child):
    child.send("\x04")
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 0


ASKED = [
    (KITTY, r"\x1b_Ga=T,f=100,q=2,c=53,r=20,m=0;[\w+/=]+\x1b\\"),
    (XTERM_SIXEL, r'\x1bP0;1q"1;1;530;400#[^\x1b]+\x1b\\'),
    (XTERM, r"(\x1b\[38;5;\d+;48;5;\d+m\u2580)+"),
    ("", r"(\x1b\[38;5;\d+;48;5;\d+m\u2580)+"),
]


@pytest.mark.parametrize(("answer", "picture"), ASKED, ids=["kitty", "sixel", "xterm", "silent"])
def test_a_terminal_is_asked_and_nothing_typed_is_lost(start, answer, picture):
    child = start()
    child.expect_exact(QUESTION)
    child.send(f"what is{answer} it\rand then")
    child.expect(picture)
    child.expect_exact("you asked: answer en what is it !\r\n")
    child.expect("and then")
    child.send(" ?\r")
    child.expect_exact("you asked: answer en and then ? !\r\n")
    assert QUESTION not in child.before + to_prompt(child)
    leave(child)


KNOWN = [
    ({"TERM_PROGRAM": "iTerm.app"}, [], "\x1b]1337;File=inline=1;"),
    ({"TERM": "xterm-kitty", "TMUX": "x"}, [], "\u2580"),
    ({}, ["--graphics", "sixel"], '\x1bP0;1q"'),
]


@pytest.mark.parametrize(("environment", "args", "picture"), KNOWN)
def test_what_is_known_is_not_asked(start, environment, args, picture):
    child = start(*args, **environment)
    child.expect_exact(picture)
    seen = child.before
    child.expect_exact(PROMPT)
    child.send(f"/raw {BOX}\r")
    child.expect(r"1\S*  \(0, 0\) to \(320, 240\)  61%  cat")
    child.expect_exact(picture)
    assert QUESTION not in seen + to_prompt(child)
    leave(child)


PLAIN = [
    ([], {"NO_COLOR": "1"}),
    ([], {"TERM": "dumb"}),
    (["--no-color", "--graphics", "kitty"], {}),
]


@pytest.mark.parametrize(("args", "environment"), PLAIN)
def test_without_colours_there_are_words_alone(start, args, environment):
    child = start(*args, **environment)
    child.expect_exact("ask about cat.png (640x480)")
    seen = child.before
    child.expect_exact(PROMPT)
    child.send(f"/raw {BOX}\r")
    child.expect_exact("1  (0, 0) to (320, 240)  61%  cat !\r\n")
    seen += child.before
    assert "\x1b" not in seen + to_prompt(child)
    leave(child)


def test_graphics_off_shows_no_picture(start):
    child = start("--graphics", "off")
    seen = to_prompt(child)
    assert "\u2580" not in seen
    assert QUESTION not in seen
    leave(child)


@pytest.mark.parametrize(("columns", "wide"), [(40, 40), (200, 53)])
def test_the_picture_fits_the_window(start, columns, wide):
    child = start("--graphics", "blocks", columns=columns)
    rows = [line.count("\u2580") for line in to_prompt(child).splitlines() if "\u2580" in line]
    assert set(rows) == {wide}
    leave(child)


def test_a_resized_window_gets_pictures_of_its_size(start):
    child = start("--graphics", "blocks", columns=120)
    child.expect_exact(PROMPT)
    child.setwinsize(12, 20)
    child.send("/image cat.png\r")
    child.expect_exact("[1] cat.png")
    child.send("/image none\r")
    child.expect_exact("no image now")
    child.send("/image 1\r")
    child.expect_exact("[1] cat.png")
    child.expect("\u2580")
    rows = [line for line in re.split("\r\n", "\u2580" + to_prompt(child)) if "\u2580" in line]
    assert {line.count("\u2580") for line in rows} == {20}
    leave(child)


def test_a_pipe_gets_no_picture_and_no_question(tmp_path):
    import subprocess

    Image.new("RGB", (64, 48), "red").save(tmp_path / "cat.png")
    ran = subprocess.run(
        [sys.executable, "-m", "tests.chat", "--no-track", "--graphics", "kitty"],
        input=f"/image cat.png\n/raw {BOX}\n",
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ROOT, "TERM": "xterm-kitty"},
        capture_output=True,
        text=True,
    )
    assert ran.stdout == f"you asked: {BOX} !\n"
    assert ran.stderr == "[1] cat.png 64x48\n1  (0, 0) to (32, 24)  61%  cat !\n"
