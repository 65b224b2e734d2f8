"""The screen: what reaches stdout and stderr, byte for byte, and what never does."""

import io
import json
import re
import time
from contextlib import contextmanager

import pytest
from PIL import Image

from tests.scripted import ScriptedEngine
from vlmchat.engine import Piece
from vlmchat.errors import UserError
from vlmchat.overlay import Mark, Scene, color_of, plain
from vlmchat.sampling import Sampling
from vlmchat.terminal import waiting
from vlmchat.terminal.detect import Answer
from vlmchat.terminal.render import OutputError, Screen, one_line, printable

RED = (255, 0, 0)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("NO_COLOR", "COLORTERM", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def screen_on(kind=io.StringIO, **how):
    return Screen(kind(), kind(), **how)


def stream(*answers):
    return ScriptedEngine(*answers).stream("prompt", None, Sampling(), "kv")


HOSTILE = [
    ("plain text, tab\tand\nnew line", "plain text, tab\tand\nnew line"),
    ("höflich 猫 🐈 e\u0301", "höflich 猫 🐈 e\u0301"),
    ("\x1b[31mred\x1b]52;c;aGk=\x07", "\ufffd[31mred\ufffd]52;c;aGk=\ufffd"),
    ("a\rb\x00c\x08d\x7f", "a\ufffdb\ufffdc\ufffdd\ufffd"),
    ("\x9b31m\x85", "\ufffd31m\ufffd"),
    ("\u202egnp.exe\u2066\u200f\u061c", "\ufffdgnp.exe\ufffd\ufffd\ufffd"),
    ("name\udcff.png", "name\ufffd.png"),
]


@pytest.mark.parametrize(("text", "shown"), HOSTILE)
def test_printable_replaces_what_could_steer_a_terminal(text, shown):
    assert printable(text) == shown
    for cut in range(len(text)):
        assert printable(text[:cut]) + printable(text[cut:]) == shown


def test_one_line_folds_line_breaks():
    assert one_line(" a \n\r\n\n  b\x85c ") == "a b c"


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
@pytest.mark.parametrize("answer", ["a red cat", "", "two\nlines\n", "\x1b[2J 猫"])
def test_an_answer_is_its_pieces_and_one_newline(kind, answer):
    screen = screen_on(kind)
    reply = screen.answer(stream(answer), "looking")
    assert screen.out.getvalue() == printable(answer) + "\n"
    assert screen.err.getvalue() == ""
    assert reply.text == answer


def test_pieces_are_written_as_they_come():
    screen = screen_on()

    def watched():
        yield Piece("one", 1, 0.0)
        assert screen.out.getvalue() == "one"
        yield Piece(" two", 2, 0.0)
        assert screen.out.getvalue() == "one two"
        yield from stream("")

    screen.answer(watched(), "looking")


@pytest.mark.parametrize("end", [KeyboardInterrupt, UserError("no room: ask less")])
def test_a_broken_off_answer_keeps_what_was_written_and_ends_its_line(end):
    screen = screen_on()

    def broken():
        yield Piece("half of", 1, 0.0)
        raise end

    with pytest.raises((KeyboardInterrupt, UserError)):
        screen.answer(broken(), "looking")
    assert screen.out.getvalue() == "half of\n"


def test_an_answer_that_never_begins_writes_nothing():
    screen = screen_on()
    with pytest.raises(UserError):
        screen.answer(stream(UserError("too long: ask less")), "looking")
    assert screen.out.getvalue() == ""


def test_json_mode_writes_objects_only():
    screen = screen_on(as_json=True)
    screen.answer(stream("a cat"), "looking")
    screen.record({"text": "\x1b[31m\n猫", "number": 0.5})
    screen.failed("q\udcff", UserError("no such\nthing: look again"))
    lines = screen.out.getvalue().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"text": "\x1b[31m\n猫", "number": 0.5},
        {"prompt": "q?", "error": "no such\nthing: look again"},
    ]
    assert screen.out.getvalue().isascii()
    assert screen.err.getvalue() == ""
    with pytest.raises(ValueError, match="JSON compliant"):
        screen.record({"number": float("nan")})


ERRORS = [
    (UserError("no cat\n.png: look again"), "vlmchat: no cat .png: look again\n"),
    (
        ValueError("a \x1bbug"),
        "vlmchat: internal error (ValueError: a \ufffdbug): see more of it with --verbose\n",
    ),
]


@pytest.mark.parametrize(("error", "line"), ERRORS)
def test_an_error_is_one_line_on_stderr(error, line):
    screen = screen_on(quiet=True)
    screen.failed("prompt", error)
    assert (screen.out.getvalue(), screen.err.getvalue()) == ("", line)


def test_verbose_shows_where_an_error_comes_from():
    screen = screen_on(verbose=True)
    with pytest.raises(UserError) as caught:
        screen.answer(stream(UserError("too long: ask less")), "looking")
    screen.failed("prompt", caught.value)
    first, *_, last = screen.err.getvalue().splitlines()
    assert first == "Traceback (most recent call last):"
    assert last == "vlmchat: too long: ask less"


def test_quiet_leaves_errors_and_what_was_asked_for():
    screen = screen_on(quiet=True)
    screen.notice("loaded")
    screen.say("a list")
    screen.error("broken: mend it")
    assert screen.err.getvalue() == "a list\nvlmchat: broken: mend it\n"


def everything(screen):
    """Use all of a screen, with names that look like markup."""
    with screen.waiting("[/foo].png"), screen.loading(":cat:") as progress:
        if progress is not None:
            progress(1, 2)
    screen.scene(picture((40, 40), "red"))
    screen.notice("[red]x[/red].png :smiley:")
    screen.say("[link=http://x]y[/link]")
    screen.answer(stream("[bold]answer[/bold]"), "looking")
    screen.error("[/foo].png: no")
    return screen.out.getvalue(), screen.err.getvalue()


@pytest.mark.parametrize(
    ("kind", "environment", "color"),
    [
        (io.StringIO, {}, True),
        (Terminal, {"NO_COLOR": "1"}, True),
        (Terminal, {"TERM": "dumb"}, True),
        (Terminal, {}, False),
    ],
)
def test_no_escape_sequence_where_none_is_wanted(monkeypatch, kind, environment, color):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    out, err = everything(screen_on(kind, color=color))
    assert out == "[bold]answer[/bold]\n"
    shown = "[red]x[/red].png :smiley:\n[link=http://x]y[/link]\nvlmchat: [/foo].png: no\n"
    assert err == (":cat:\n" if kind is Terminal else "") + shown


def test_a_terminal_gets_styles_and_the_same_words():
    out, err = everything(screen_on(Terminal))
    assert out == "[bold]answer[/bold]\n"
    assert "\x1b[2m[red]x[/red].png :smiley:\x1b[0m\n" in err
    assert "\n[link=http://x]y[/link]\n" in err
    assert "\x1b[31mvlmchat: [/foo].png: no\x1b[0m\n" in err


def test_each_stream_is_judged_by_itself():
    screen = Screen(io.StringIO(), Terminal())
    assert (screen.styled, screen.err_styled) == (False, True)


def test_long_lines_are_left_to_the_terminal_to_wrap():
    screen = screen_on(Terminal)
    screen.notice("word " * 200)
    assert screen.err.getvalue().count("\n") == 1


def picture(size, *colors):
    """A picture of vertical stripes."""
    image = Image.new("RGB", size)
    for number, color in enumerate(colors):
        image.paste(color, (number * size[0] // len(colors), 0, size[0], size[1]))
    return plain(image)


def cells(err):
    """How many half blocks each line has."""
    return [line.count("\u2580") for line in err.splitlines()]


@pytest.mark.parametrize(
    ("size", "columns", "rows"),
    [((224, 224), 32, 16), ((400, 100), 72, 9), ((100, 400), 8, 16), ((9000, 1), 72, 1)],
)
def test_a_picture_is_drawn_in_its_proportions(monkeypatch, size, columns, rows):
    monkeypatch.setenv("COLORTERM", "truecolor")
    screen = screen_on(Terminal)
    screen.scene(picture(size, "red"))
    assert cells(screen.err.getvalue()) == [columns] * rows
    assert screen.out.getvalue() == ""


def test_a_picture_has_its_colours_in_their_places(monkeypatch):
    monkeypatch.setenv("COLORTERM", "truecolor")
    screen = screen_on(Terminal)
    screen.scene(picture((200, 10), (250, 1, 2), (3, 4, 240)))  # rich remembers colours
    row = screen.err.getvalue().splitlines()[0]
    assert row.startswith("\x1b[38;2;250;1;2;48;2;250;1;2m\u2580")
    assert row.endswith("\x1b[38;2;3;4;240;48;2;3;4;240m\u2580\x1b[0m")


def test_a_narrow_terminal_gets_a_narrow_picture(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    screen = screen_on(Terminal)
    screen.scene(picture((400, 100), "red"))
    assert cells(screen.err.getvalue()) == [20] * 2


@pytest.mark.parametrize(
    "how", [{"quiet": True}, {"as_json": True}, {"color": False}, {"graphics": "off"}]
)
def test_no_picture_where_it_is_not_wanted(how):
    screen = screen_on(Terminal, **how)
    screen.scene(picture((40, 40), "red"))
    assert screen.err.getvalue() == ""


@pytest.mark.parametrize(
    ("graphics", "start", "end"),
    [
        ("kitty", "\x1b_Ga=T,f=100,q=2,c=32,r=16,m=", "\x1b\\\n"),
        ("iterm2", "\x1b]1337;File=inline=1;size=", "\x07\n"),
        ("sixel", '\x1bP0;1q"1;1;320;320#0;2;100;0;0', "\x1b\\\n"),
        ("blocks", "\x1b[", "\x1b[0m\n"),
    ],
)
def test_a_picture_is_drawn_as_wanted(monkeypatch, graphics, start, end):
    monkeypatch.delenv("TMUX", raising=False)
    screen = screen_on(Terminal, graphics=graphics)
    screen.scene(picture((224, 224), "red"))
    drawn = screen.err.getvalue()
    assert drawn.startswith(start)
    assert drawn.endswith(end)
    assert (drawn.count("\n") == 1) == (graphics != "blocks")


def test_a_terminal_with_few_colours_or_letters_gets_no_blocks(monkeypatch):
    monkeypatch.setenv("TERM", "unknown")
    monkeypatch.setattr("rich.console.Console.color_system", None)
    screen = screen_on(Terminal, graphics="blocks")
    screen.scene(picture((224, 224), "red"))
    assert screen.err.getvalue() == ""


def test_what_lies_over_a_picture_is_drawn_at_the_size_shown(monkeypatch):
    sizes = []
    image = Image.new("RGB", (400, 100))
    scene = Scene(image, lambda shown: sizes.append(shown.size) or shown, (Mark("7", 0, 0, RED),))
    for graphics in ("blocks", "kitty"):
        screen = screen_on(Terminal, graphics=graphics)
        screen.scene(scene)
        assert ("m7\x1b[" in screen.err.getvalue()) == (graphics == "blocks")
    assert sizes == [(72, 18), (720, 180)]


def test_the_terminal_is_asked_once_and_typing_is_given_back_once(monkeypatch):
    asked = []

    def choose(wanted, stream):
        asked.append(wanted)
        return Answer("sixel", "typed")

    monkeypatch.setattr("vlmchat.terminal.graphics.choose", choose)
    screen = screen_on(Terminal)
    assert screen.typed_ahead() == ""
    screen.scene(picture((10, 10), "red"))
    screen.scene(picture((10, 10), "red"))
    assert [screen.typed_ahead(), screen.typed_ahead(), asked] == ["typed", "", ["auto"]]


def test_a_legend_has_the_colours_of_the_boxes(monkeypatch):
    monkeypatch.setenv("COLORTERM", "truecolor")
    screen = screen_on(Terminal)
    screen.legend([" 1  a [b]", "12  \x1bc"])
    red, green, blue = color_of(1)
    first, second = screen.err.getvalue().splitlines()
    assert first == f"\x1b[1;38;2;{red};{green};{blue}m 1\x1b[0m  a [b]"
    assert second.endswith("\x1b[0m  \ufffdc")
    plain_screen = screen_on()
    plain_screen.legend(["1  a"])
    assert plain_screen.err.getvalue() == "1  a\n"
    quiet = screen_on(quiet=True)
    quiet.legend(["1  a"])
    assert quiet.err.getvalue() == ""


@pytest.fixture
def drawn(monkeypatch):
    """A function that waits for a screen's waiting line to be drawn; what it says."""
    monkeypatch.setattr(waiting, "DELAY", 0.001)

    def drawn(screen):
        seen = screen.err.getvalue().count(waiting.CLEAR) + 2  # one may have begun before
        deadline = time.monotonic() + 30
        while (lines := screen.err.getvalue().split(waiting.CLEAR))[seen:] == []:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        return lines[-1]

    return drawn


def gone(screen):
    """Whether the line has been taken away, without a newline."""
    return screen.err.getvalue().endswith(waiting.CLEAR) and "\n" not in screen.err.getvalue()


def test_waiting_shows_a_line_and_takes_it_away(drawn):
    screen = screen_on(Terminal)
    with screen.waiting("looking at \x1bcat"):
        assert re.fullmatch(r"[|/\\-] looking at \ufffdcat 0 s", drawn(screen))
    assert gone(screen)


def test_what_is_over_at_once_shows_nothing():
    screen = screen_on(Terminal)
    with screen.waiting("looking"):
        pass
    assert screen.err.getvalue() == ""


def test_waiting_shows_how_far_it_is_once_that_is_known(drawn):
    screen = screen_on(Terminal)

    @contextmanager
    def watch(report):
        report(0.75)
        report(0.5)
        yield

    with screen.waiting("looking at cat", watch):
        assert drawn(screen) == "looking at cat [##################      ]  75%"
    assert gone(screen)


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (200, "loading [############            ]  50% 30 of 60 MB"),
        (40, "loading [######      ]  50% 30 of 60 MB"),
        (30, "loading  50% 30 of 60 MB"),
        (20, "loading  50% 30 of "),
    ],
)
def test_the_line_never_wraps(monkeypatch, drawn, columns, shown):
    monkeypatch.setattr(waiting.Waiting, "_columns", lambda _: columns)
    screen = screen_on(Terminal)
    with screen.loading("loading") as progress:
        progress(30_000_000, 60_000_000)
        assert drawn(screen) == shown


def test_wide_letters_count_twice(monkeypatch, drawn):
    monkeypatch.setattr(waiting.Waiting, "_columns", lambda _: 9)
    screen = screen_on(Terminal)
    with screen.waiting("猫猫猫猫猫"):
        assert drawn(screen)[1:] == " 猫猫猫"


ESTIMATES = [
    ([(0.0, 0.0), (0.5, 10.0)], 10.0),
    ([(0.6, 0.0), (0.8, 2.0)], 2.0),  # the first 60 % were done before
    ([(0.0, 0.0), (0.5, 0.1)], None),  # too soon
    ([(0.0, 0.0), (0.01, 9.0)], None),  # too little
    ([(0.0, 0.0), (1.0, 9.0)], None),  # as good as over
    ([(0.5, 0.0), (1.0, 5.0), (0.1, 6.0), (0.4, 9.0)], 6.0),  # a second piece of work
]


@pytest.mark.parametrize(("seen", "left"), ESTIMATES)
def test_an_estimate_goes_by_what_was_done_since_it_was_first_seen(seen, left):
    estimate = waiting.Estimate()
    assert [estimate.left(*each) for each in seen][-1] == (
        None if left is None else pytest.approx(left)
    )


@pytest.mark.parametrize(("seconds", "text"), [(2.4, "about 2 s"), (600, "about 10 min")])
def test_a_time_has_the_unit_that_a_person_would_choose(seconds, text):
    assert waiting._about(seconds) == text


def test_loading_draws_a_bar_and_takes_it_away(drawn):
    screen = screen_on(Terminal)
    with screen.loading("loading") as progress:
        assert "loading 0 s" in drawn(screen)
        progress(3_000_000_000, 6_000_000_000)
        assert drawn(screen) == "loading [############            ]  50% 3.0 of 6.0 GB"
        progress(600_000_000, 600_000_000)
        assert drawn(screen).startswith("loading [########################] 100% 600 of 600 MB")
    assert gone(screen)


@pytest.mark.parametrize(("kind", "quiet"), [(io.StringIO, False), (Terminal, True)])
def test_loading_wants_no_progress_where_nobody_looks(kind, quiet):
    screen = screen_on(kind, quiet=quiet)
    with screen.loading("loading") as progress:
        assert progress is None
    assert screen.err.getvalue() == ""


@pytest.mark.parametrize(
    ("error", "closed"), [(BrokenPipeError(32, "Broken pipe"), True), (OSError(28, "full"), False)]
)
def test_a_stream_that_takes_no_more_raises_output_error(error, closed):
    class Broken(io.StringIO):
        def write(self, text):
            raise error

    with pytest.raises(OutputError) as caught:
        Screen(io.StringIO(), Broken()).say("hello")
    assert caught.value.closed is closed


def test_characters_that_a_stream_cannot_hold_become_question_marks():
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Screen(out, io.StringIO()).answer(stream("a 猫"), "looking")
    assert out.buffer.getvalue() == b"a ?\n"
