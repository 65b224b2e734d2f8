"""`/look`, `/why` and `/paste`: what they say, show and load."""

import re

import pytest
from PIL import Image, ImageGrab

from tests.scripted import ScriptedEngine
from tests.test_explain import folder, make_engine  # noqa: F401  # a fixture
from vlmchat import explain
from vlmchat.errors import UserError
from vlmchat.explain import Choice, Step
from vlmchat.sampling import Sampling
from vlmchat.session import Session, Settings
from vlmchat.terminal.commands import CommandError, run


@pytest.fixture
def answered(folder, tmp_path):  # noqa: F811
    """A session with a tiny model that has answered about an image."""
    session = Session(make_engine(folder, True), Settings(sampling=Sampling(max_tokens=4)))
    Image.new("RGB", (64, 48), "red").save(tmp_path / "cat.png")
    session.add_image(tmp_path / "cat.png")
    session.answer("what is this")
    return session


LOOKS = [
    ("/look", r"while it answered, over all layers: "),
    ("/look layer 2", r"while it answered, in layer 2: "),
    ("/look {word}", r'while it wrote "{word}", over all layers: '),
    ("/LOOK  {word}  Layer 3 ", r'while it wrote "{word}", in layer 3: '),
]


@pytest.mark.parametrize(("line", "begins"), LOOKS)
def test_look_says_and_shows(answered, line, begins):
    word = answered.turns[-1].pieces[0]
    said = run(line.format(word=word), answered)
    numbers = r"\d+% of its attention went to the image, most at \((16|48), (12|36)\)"
    tip = r"; /save look\.png keeps the picture"
    assert re.fullmatch(begins.format(word=re.escape(word)) + numbers + tip, said.text)
    assert said.scene is answered.looked
    assert said.scene.full().size == (64, 48)


def test_look_at_what_is_not_there(answered):
    with pytest.raises(UserError, match="giraffe is not in the last answer"):
        run("/look giraffe", answered)
    with pytest.raises(UserError, match="there is no layer 9"):
        run("/look layer 9", answered)


def test_why_lists_each_token_with_its_runners_up(answered, monkeypatch):
    steps = [
        Step(Choice(7, " red", 0.9), (Choice(8, " blue", 0.08), Choice(9, "\x1b[31m", 0.0004))),
        Step(Choice(1, "(end)", 1.0), (Choice(8, "<loc0001>", 0.0),)),
    ]
    monkeypatch.setattr(explain, "choices", lambda *_: steps)
    assert run("/why", answered).text == (
        " 90.0% ' red'  or   8.0% ' blue'    0.0% '\\x1b[31m'\n100.0% (end)   or   0.0% <loc0001>"
    )


def test_why_asks_the_model(answered):
    text = run("/why", answered).text
    probability = explain.choices(answered.engine, answered.current, answered.turns[-1].reply)[
        0
    ].chosen.probability
    assert len(text.splitlines()) == len(answered.turns[-1].reply.token_ids)
    assert text.startswith(f"{probability:6.1%} ")


@pytest.mark.parametrize("line", ["/why", "/look"])
def test_there_must_be_an_answer(line):
    with pytest.raises(UserError, match="no answer yet: ask something"):
        run(line, Session(ScriptedEngine()))


def copied(monkeypatch, what):
    def grab():
        if isinstance(what, Exception):
            raise what
        return what

    monkeypatch.setattr(ImageGrab, "grabclipboard", grab)
    return Session(ScriptedEngine())


def test_paste_loads_a_copied_image(monkeypatch):
    session = copied(monkeypatch, Image.new("RGBA", (30, 20), "blue"))
    assert run("/paste", session).text == "[1] clipboard 30x20"
    assert session.current.image.getpixel((0, 0)) == (0, 0, 255)


def test_paste_loads_a_copied_file(monkeypatch, tmp_path):
    path = tmp_path / "my cat.png"
    Image.new("RGB", (64, 48)).save(path)
    session = copied(monkeypatch, [str(path)])
    assert run("/paste", session).text == "[1] my cat.png 64x48"


NOTHING = [
    (None, "there is no image in the clipboard: copy one first"),
    ([], "there is no image in the clipboard: copy one first"),
    (
        NotImplementedError("wl-paste or xclip is required\nfor this"),
        "the clipboard cannot be read (wl-paste or xclip is required):"
        " save the image and load it with /image",
    ),
    (
        OSError(),
        "the clipboard cannot be read (OSError): save the image and load it with /image",
    ),
]


@pytest.mark.parametrize(("what", "message"), NOTHING)
def test_paste_without_an_image_is_one_line(monkeypatch, what, message):
    session = copied(monkeypatch, what)
    with pytest.raises(CommandError) as caught:
        run("/paste", session)
    assert str(caught.value) == message
