"""Lines in, answers out: whole transcripts of stdout and stderr, and the exit code."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from tests.scripted import ScriptedEngine
from vlmchat.errors import UserError
from vlmchat.sampling import Sampling
from vlmchat.session import Session, Settings
from vlmchat.terminal import batch
from vlmchat.terminal.render import OutputError, Screen
from vlmchat.transcript import record


@pytest.fixture
def folder(tmp_path, monkeypatch):
    Image.new("RGB", (64, 48), "red").save(tmp_path / "cat.png")
    Image.new("RGB", (30, 90), "blue").save(tmp_path / "dog.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def engine():
    return ScriptedEngine()


@pytest.fixture
def session(folder, engine):
    return Session(engine)


def carry_out(session, *lines, **how):
    """The exit code, stdout and stderr of some lines."""
    screen = Screen(io.StringIO(), io.StringIO(), **how)
    code = batch.run(lines, session, screen)
    return code, screen.out.getvalue(), screen.err.getvalue()


def test_answers_go_to_stdout_and_the_rest_to_stderr(session, engine):
    engine.enqueue("a cat", "red")
    lines = [
        "/image cat.png\n",
        "\n",
        "what is it\r\n",
        "/set max-tokens 5\n",
        "   \n",
        "ocr\n",
    ]
    assert carry_out(session, *lines) == (
        0,
        "a cat\nred\n",
        "[1] cat.png 64x48\nmax-tokens = 5\n",
    )
    assert [call.prompt for call in engine.calls] == ["answer en what is it", "ocr"]


def test_a_line_that_fails_ends_alone(session, engine):
    engine.enqueue(RuntimeError("a bug"), "fine")
    code, out, err = carry_out(session, "/nope", "dog.png and what ?", "ocr")
    assert (code, out) == (1, "fine\n")
    no_command, loaded, bug = err.splitlines()
    assert no_command.startswith("vlmchat: there is no command /nope: ")
    assert loaded == "[1] dog.png 30x90"
    assert bug == ("vlmchat: internal error (RuntimeError: a bug): see more of it with --verbose")


def test_quit_ends_the_lines(session, engine):
    engine.enqueue("one", "two")
    assert carry_out(session, "/image cat.png", "first", "/quit", "second")[:2] == (0, "one\n")


def test_a_missing_image_is_said(session, engine):
    engine.enqueue("from memory")
    assert carry_out(session, "what ?") == (
        0,
        "from memory\n",
        "there is no image: this is answered from text alone\n",
    )


def test_an_image_that_failed_is_not_answered_about(session, engine):
    engine.enqueue("about the dog")
    code, out, err = carry_out(
        session, "/image cat.png", "/image no.png", "what ?", "/image dog.png", "what ?"
    )
    assert (code, out) == (1, "about the dog\n")
    assert [line.split(":")[0] for line in err.splitlines()] == [
        "[1] cat.png 64x48",
        "vlmchat",
        "vlmchat",
        "[2] dog.png 30x90",
    ]
    assert [call.image for call in engine.calls] == ["dog.png"]


@pytest.mark.parametrize(
    ("limit", "notice"),
    [
        (1, "[cut after 1 token: /set max-tokens N or --max-tokens N allows more]\n"),
        (2, "[cut after 2 tokens: /set max-tokens N or --max-tokens N allows more]\n"),
        (9, ""),
    ],
)
def test_an_answer_at_the_token_limit_says_how_to_raise_it(folder, engine, limit, notice):
    session = Session(engine, Settings(sampling=Sampling(max_tokens=limit)))
    engine.enqueue("one two three")
    _, out, err = carry_out(session, "cat.png what ?")
    assert out == " ".join(["one", "two", "three"][:limit]) + "\n"
    assert err == "[1] cat.png 64x48\n" + notice


def test_verbose_tells_what_an_answer_cost(session, engine):
    engine.enqueue("a cat")
    _, out, err = carry_out(session, "what ?", verbose=True)
    assert out == "a cat\n"
    assert err.endswith("\n[first token 0.50 s, 4.0 tokens/s, 0 tokens reused, 6 computed]\n")


def test_json_is_one_object_a_line(session, engine):
    engine.enqueue("a cat", RuntimeError("a bug"))
    code, out, err = carry_out(
        session, "/image cat.png", "what ?", "/image no.png", "/image 1", "ocr", as_json=True
    )
    answer, failed, bug = (json.loads(line) for line in out.splitlines())
    assert answer == record(session.turns[0])
    assert answer["text"] == "a cat"
    assert answer["image"] == "cat.png"
    assert sorted(failed) == sorted(bug) == ["error", "prompt"]
    assert (failed["prompt"], bug["prompt"]) == ("/image no.png", "ocr")
    assert code == 1
    assert err == "[1] cat.png 64x48\n[1] cat.png 64x48\n"


def test_each_question_is_asked_for_each_image(session, engine):
    engine.enqueue(*"abcd")
    numbers = [session.add_image(Path(name)) for name in ("cat.png", "dog.png")]
    screen = Screen(io.StringIO(), io.StringIO())
    assert batch.run_each(["what ?", "caption en"], numbers, session, screen) == 0
    assert screen.out.getvalue() == "a\nb\nc\nd\n"
    assert [(call.image, call.prompt) for call in engine.calls] == [
        ("cat.png", "answer en what ?"),
        ("cat.png", "caption en"),
        ("dog.png", "answer en what ?"),
        ("dog.png", "caption en"),
    ]


def test_one_failing_image_makes_the_whole_fail(session, engine):
    engine.enqueue(RuntimeError("a bug"), "b")
    numbers = [session.add_image(Path(name)) for name in ("cat.png", "dog.png")]
    screen = Screen(io.StringIO(), io.StringIO())
    assert batch.run_each(["what ?"], numbers, session, screen) == 1
    assert screen.out.getvalue() == "b\n"


def test_without_an_image_each_question_is_asked_once(session, engine):
    engine.enqueue("a")
    screen = Screen(io.StringIO(), io.StringIO())
    assert batch.run_each(["what\nis it ?"], [], session, screen) == 0
    assert [call.prompt for call in engine.calls] == ["answer en what is it ?"]


def test_lines_are_taken_one_at_a_time(session, engine):
    screen = Screen(io.StringIO(), io.StringIO())
    engine.enqueue("one", "two")

    def producer():
        yield "first"
        assert screen.out.getvalue() == "one\n"
        yield "second"

    batch.run(producer(), session, screen)
    assert screen.out.getvalue() == "one\ntwo\n"


def test_an_interrupt_and_a_closed_output_end_the_program(session, engine):
    engine.enqueue(KeyboardInterrupt(), "a cat")
    with pytest.raises(KeyboardInterrupt):
        carry_out(session, "what ?", "what ?")

    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    with pytest.raises(OutputError):
        batch.run(["what ?"], session, Screen(Closed(), io.StringIO()))


def carry_out_together(session, *lines, size=8, **how):
    """The exit code, stdout and stderr of some lines whose questions are asked in batches."""
    screen = Screen(io.StringIO(), io.StringIO(), **how)
    code = batch.run(lines, session, screen, size)
    return code, screen.out.getvalue(), screen.err.getvalue()


LINES = [
    "cat.png what is it\n",
    "which colour\n",
    "\n",
    "/detect cat\n",
    "/caption xx11\n",
    "/nope\n",
    "/image dog.png\n",
    "first\n",
    "/set max-tokens 1\n",
    "/caption\n",
    "caption de\n",
    "/image no.png\n",
    "not answered\n",
    "nor this\n",
    "/image none\n",
    "from text\n",
    "/raw more text\n",
    "/retry\n",
    "/quit\n",
    "never\n",
]
BATCHES = [
    ["answer en which colour", "detect cat"],
    ["caption en", "caption de"],
    ["answer en from text", "more text"],
]


@pytest.mark.parametrize("as_json", [False, True])
def test_batches_change_nothing_in_what_is_written(folder, as_json):
    transcripts = []
    for size in (1, 2, 8):
        engine = ScriptedEngine(*(f"answer {number}" for number in range(9)))
        session = Session(engine)
        transcripts.append(carry_out_together(session, *LINES, size=size, as_json=as_json))
        assert engine.batches == ([] if size == 1 else BATCHES)
        assert [turn.line for turn in session.turns] == [
            *("what is it", "which colour", "/detect cat", "first", "/caption", "caption de"),
            *("from text", "/raw more text", "/raw more text"),
        ]
    assert transcripts[0] == transcripts[1] == transcripts[2]
    assert transcripts[0][0] == 1
    answers = [f"answer {number}" for number in range(3)]
    answers += ["answer 3", "answer", "answer", "answer", "answer", "answer"]
    if not as_json:
        assert transcripts[0][1] == "\n".join(answers) + "\n"


def test_a_batch_is_full_at_its_size(session, engine):
    engine.enqueue(*"abcde")
    assert carry_out_together(session, *"vwxyz", size=2)[1] == "a\nb\nc\nd\ne\n"
    assert [len(prompts) for prompts in engine.batches] == [2, 2]  # and one alone


def test_one_failing_answer_of_a_batch_costs_no_other(session, engine):
    engine.enqueue("a", RuntimeError("a bug"), UserError("too long: ask less"), "d")
    code, out, err = carry_out_together(session, "/image cat.png", *"wxyz")
    assert (code, out) == (1, "a\nd\n")
    assert [line.split(":")[1].strip() for line in err.splitlines()[1:]] == [
        "internal error (RuntimeError",
        "too long",
    ]
    assert len(engine.batches[0]) == 4


def test_a_batch_does_not_wait_for_lines_that_are_not_there(session, engine):
    engine.enqueue(*"abcde")
    there = iter([True, False, True, True, False])
    screen = Screen(io.StringIO(), io.StringIO())
    batch.run(iter("vwxyz"), session, screen, 8, lambda: next(there))
    assert screen.out.getvalue() == "a\nb\nc\nd\ne\n"
    assert [len(prompts) for prompts in engine.batches] == [2, 3]


def test_each_image_has_batches_of_its_own(session, engine):
    engine.enqueue(*"abcd")
    numbers = [session.add_image(Path(name)) for name in ("cat.png", "dog.png")]
    screen = Screen(io.StringIO(), io.StringIO())
    assert batch.run_each(["what ?", "caption en"], numbers, session, screen, 8) == 0
    assert screen.out.getvalue() == "a\nb\nc\nd\n"
    assert engine.batches == [["answer en what ?", "caption en"]] * 2
    assert [call.image for call in engine.calls] == ["cat.png", "cat.png", "dog.png", "dog.png"]


def test_an_interrupt_ends_a_batch(session, engine):
    engine.enqueue("one", KeyboardInterrupt(), "three")
    screen = Screen(io.StringIO(), io.StringIO())
    with pytest.raises(KeyboardInterrupt):
        batch.run(["what ?", "why ?", "where ?"], session, screen, 8)
    assert screen.out.getvalue() == "one\n"
    assert len(session.turns) == 1
