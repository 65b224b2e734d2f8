"""The whole program in a real terminal (a pty): what a person sees and presses."""

import os
import sys

import pytest
from PIL import Image

pexpect = pytest.importorskip("pexpect")
# Python 3.12 warns of forks beside threads; the child executes another program at once.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
ROOT = os.path.dirname(os.path.dirname(__file__))
PROMPT = ">>>"


@pytest.fixture
def start(tmp_path):
    """A function that starts the scripted chat in a pty."""
    Image.new("RGB", (64, 48), "red").save(tmp_path / "cat.png")
    children = []

    def start(*args, redirect=None, **environment):
        plain = {k: v for k, v in os.environ.items() if not k.startswith(("VLMCHAT_", "NO_COLOR"))}
        program = [sys.executable, "-m", "tests.chat"]
        child = pexpect.spawn(
            "/bin/sh",
            ["-c", f'exec "$0" "$@" {f"> {redirect}" if redirect else ""}', *program, *args],
            cwd=tmp_path,
            env={
                **plain,
                "PYTHONPATH": os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "")]),
                "PROMPT_TOOLKIT_NO_CPR": "1",
                "TERM": "xterm-256color",
                "VLMCHAT_TRACK": "0",
                "VLMCHAT_HISTORY": str(tmp_path / "history"),
                **environment,
            },
            encoding="utf-8",
            dimensions=(24, 100),
            timeout=60,
        )
        children.append(child)
        return child

    yield start
    for child in children:
        child.close(force=True)


def leave(child, key, code):
    child.send(key)
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == code


def test_a_question_and_ctrl_d(start):
    child = start()
    child.expect("demo model")
    child.expect(PROMPT)
    child.send("cat.png what is it\r")
    child.expect_exact("[1] cat.png 64x48")
    child.expect("you asked: answer en what is it !\r\n")
    child.expect(PROMPT)
    leave(child, "\x04", 0)


def test_ctrl_c_stops_an_answer_and_the_chat_goes_on(start):
    child = start("--image", "cat.png")
    child.expect(PROMPT)
    child.send("wait\r")
    child.expect("you asked:")
    child.send("\x03")
    child.expect_exact("[stopped]")
    child.expect(PROMPT)
    child.send("and now\r")
    child.expect("you asked: answer en and now !\r\n")
    child.expect(PROMPT)
    child.send("half a line\x03")
    child.send("\x03")
    child.expect("to leave, press Ctrl-D")
    leave(child, "\x03", 130)


@pytest.mark.parametrize(
    ("args", "environment"),
    [(["--no-color"], {}), ([], {"NO_COLOR": "1"}), ([], {"TERM": "dumb"})],
)
def test_a_terminal_without_escape_sequences_can_chat_too(start, args, environment):
    child = start("--image", "cat.png", *args, **environment)
    seen = []
    child.expect(PROMPT)
    seen.append(child.before)
    for sent, shown in [
        ("what is itt\x7f\r", "you asked: answer en what is it !\r\n"),
        ("half", "half"),
        ("\x03", PROMPT),
        ("wait\r", "you asked:"),
        ("\x03", r"\[stopped\]"),
        ("\x03", "to leave, press Ctrl-D"),
    ]:
        child.send(sent)
        child.expect(shown)
        seen.append(child.before)
    child.expect(PROMPT)
    leave(child, "\x04", 0)
    assert "\x1b" not in "".join(seen) + child.before


def test_typed_lines_are_answered_when_only_stdout_is_redirected(start, tmp_path):
    child = start(redirect="answers")
    child.expect("type questions, one a line; Ctrl-D ends")
    child.send("hello\n")
    child.expect("there is no image")
    leave(child, "\x04", 0)
    assert (tmp_path / "answers").read_text() == "you asked: answer en hello !\n"


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}])
def test_what_is_typed_while_the_model_loads_is_answered_when_it_is_there(
    start, tmp_path, environment
):
    gate = tmp_path / "gate"
    child = start("--image", "cat.png", CHAT_GATE=str(gate), **environment)
    child.expect_exact("demo model (loading)")
    child.expect(PROMPT)
    child.send("/images\r")
    child.expect_exact("[1] cat.png 64x48")
    child.expect(PROMPT)
    child.send("what is it\r")
    child.expect("the model is loading, then this is answered")
    child.send("\x03")
    child.expect_exact("[stopped]")
    child.expect(PROMPT)
    child.send("what is this\r")
    child.expect("the model is loading, then this is answered")
    gate.write_text("go")
    child.expect("you asked: answer en what is this !\r\n")
    child.expect(PROMPT)
    leave(child, "\x04", 0)


@pytest.mark.parametrize(("keys", "code"), [("\x04", 0), ("/quit\r", 0), ("\x03\x03", 130)])
def test_leaving_while_the_model_loads(start, tmp_path, keys, code):
    child = start(CHAT_GATE=str(tmp_path / "gate"))
    child.expect(PROMPT)
    leave(child, keys, code)


@pytest.mark.parametrize("typed", ["", "half a line", "what is it\r"])
@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}])
def test_a_model_that_cannot_be_loaded_ends_the_chat(start, tmp_path, environment, typed):
    gate = tmp_path / "gate"
    child = start(CHAT_GATE=str(gate), **environment)
    child.expect(PROMPT)
    if typed:
        child.send(typed)
        child.expect("then this is answered" if typed.endswith("\r") else typed)
    gate.write_text("fail")
    leave(child, "", 1)
    assert child.before.count("vlmchat: model: damaged: download it again") == 1
    assert "Traceback" not in child.before
