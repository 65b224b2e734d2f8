"""What stays on a real terminal's screen and in its scrollback, as tmux keeps it."""

import itertools
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
from PIL import Image

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")
ROOT = os.path.dirname(os.path.dirname(__file__))
PROMPT = ">>>"
NUMBERS = itertools.count()  # a server that is just ending must not be asked again
CTRL_C, CTRL_L, ALT_ENTER = "C-c", "C-l", "M-Enter"


class Window:
    """The scripted chat in a tmux window of its own."""

    def __init__(self, folder, columns, rows):
        self._server = ["tmux", "-u", "-f", os.devnull, "-L", f"test-{os.getpid()}-{next(NUMBERS)}"]
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("VLMCHAT_", "NO_COLOR"))}
        kept.pop("TMUX", None)
        settings = {"PYTHONPATH": ROOT, "VLMCHAT_HISTORY": "", "VLMCHAT_TRACK": "0"}
        size = ["-x", str(columns), "-y", str(rows)]
        program = [sys.executable, "-m", "tests.chat", "--image", "cat.png", "--graphics", "off"]
        self.tmux(
            *("new-session", "-d", *size, "-c", str(folder), *program),
            env={**kept, **settings, "LC_ALL": "C.UTF-8"},
        )

    def tmux(self, *command, env=None):
        done = subprocess.run([*self._server, *command], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def type(self, text, *keys):
        self.tmux("send-keys", "-l", "--", text)
        for key in keys:
            self.tmux("send-keys", key)

    def screen(self):
        return self.tmux("capture-pane", "-p").rstrip("\n")

    def everything(self):
        """Screen and scrollback, with the rows that a narrow window made of one line joined."""
        return self.tmux("capture-pane", "-p", "-J", "-S", "-")

    def wait(self, seen):
        """Wait until the screen satisfies a pattern."""
        deadline = time.monotonic() + 60
        while not re.search(seen, self.screen(), re.MULTILINE):
            assert time.monotonic() < deadline, f"no {seen} in\n{self.screen()}"
            time.sleep(0.05)


@pytest.fixture
def window(tmp_path):
    Image.new("RGB", (64, 48), "red").save(tmp_path / "cat.png")
    windows = []

    def window(columns=80, rows=24):
        windows.append(Window(tmp_path, columns, rows))
        windows[0].wait(f"^{PROMPT}")
        return windows[0]

    yield window
    for each in windows:
        each.tmux("kill-server")


WORDS = " ".join(f"word{number}" for number in range(60))


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_the_scrollback_holds_each_answer_once_and_whole(window, columns):
    shown = window(columns, 10)
    questions = [f"{WORDS} {number}" for number in range(5)]
    for question in questions:
        shown.type(question, "Enter")
        shown.wait(rf"{question[-1]} !\s+^{PROMPT}$")
    lines = [line.rstrip() for line in shown.everything().splitlines()]
    answers = [line for line in lines if line.startswith("you asked")]
    assert answers == [f"you asked: answer en {question} !" for question in questions]


def test_wide_and_combining_characters_take_their_cells(window):
    shown = window(40, 12)
    text = "猫が寝ている cafe\u0301 \U0001f431 naïve 長い文を折り返す長い文を折り返す"
    shown.type(text, "Enter")
    shown.wait(rf"!\s+^{PROMPT}$")
    assert shown.everything().count(f"you asked: answer en {text} !\n") == 1


def test_a_window_may_change_its_size_at_any_time(window):
    shown = window(100, 24)
    shown.type("what is it", "Enter")
    shown.wait("you asked: answer en what is it !")
    shown.type("one", ALT_ENTER)
    shown.type("two is a line of some length")
    for columns, rows in [(40, 24), (200, 24), (60, 10), (100, 24)]:
        shown.tmux("resize-window", "-x", str(columns), "-y", str(rows))
        time.sleep(0.3)
    shown.type(" and more", "Enter")
    shown.wait("you asked: answer en one two is a line of some length and more !")
    lines = shown.everything().splitlines()
    assert lines.count("you asked: answer en what is it !") == 1
    assert lines.count(f"{PROMPT} one") == 1
    assert lines.count("two is a line of some length and more") == 1


def test_help_fits_the_screen_of_a_small_terminal(window):
    shown = window(80, 24)
    shown.type("/help", "Enter")
    shown.wait(r"/help COMMAND gives an example\.\s+^>>>$")
    assert "/image [PATH | NUMBER | none]" in shown.screen()
    assert shown.screen().splitlines()[-1].startswith(" demo | cpu float32 | [1] cat.png")


def test_completions_suggestions_and_keys(window):
    shown = window(80, 24)
    shown.type("/dete")
    shown.wait(r"/detect +find things: a box for each")
    shown.type("", CTRL_C)
    shown.wait(rf"^{PROMPT}$")
    shown.type("what colour is it", "Enter")
    shown.wait("you asked: answer en what colour is it !")
    shown.type("what c")
    shown.wait(rf"^{PROMPT} what colour is it$")
    shown.type("", "Right", "Enter")
    shown.wait(r"(?s)colour is it !.*colour is it !")
    shown.type("", CTRL_L)
    shown.wait(rf"\A{PROMPT}$")
    assert shown.everything().count("you asked:") == 2
