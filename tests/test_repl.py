"""The chat without a terminal: keys go in through a pipe, whole transcripts come out."""

import io
import os
import signal
import stat
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from tests.scripted import ScriptedEngine
from vlmchat.background import Loading
from vlmchat.errors import UserError
from vlmchat.sampling import Sampling
from vlmchat.session import Session, Settings
from vlmchat.terminal import completion, editor, repl, reports
from vlmchat.terminal.render import Screen

ENTER, ALT_ENTER, CTRL_C, CTRL_D, TAB, UP = "\r", "\x1b\r", "\x03", "\x04", "\t", "\x1b[A"
GREETING = """\
demo model: it is small and knows drawn shapes (see --model-path)
/image PATH loads an image, then ask about it; /help lists the commands
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    Image.new("RGB", (64, 48), "red").save(tmp_path / "cat.png")
    Image.new("RGB", (30, 90), "blue").save(tmp_path / "my dog.jpg")
    (tmp_path / "notes.txt").write_text("none")
    (tmp_path / "pictures").mkdir()
    (tmp_path / ".hidden.gif").write_text("none")
    (tmp_path / "steer\x1b[31m.png").write_text("none")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VLMCHAT_HISTORY", "")
    monkeypatch.setattr(repl, "SAMPLE", tmp_path / "no sample.png")
    return tmp_path


@pytest.fixture
def engine():
    return ScriptedEngine()


@pytest.fixture
def session(engine):
    return Session(engine, model_name="demo")


def chat(session, keys, **how):
    """The exit code, stdout and stderr (without the greeting) of a chat with these keys."""
    screen = Screen(io.StringIO(), io.StringIO(), **how)
    with create_pipe_input() as keyboard:
        keyboard.send_text(keys)
        code = repl.run(session, screen, keyboard, DummyOutput())
    return code, screen.out.getvalue(), screen.err.getvalue().removeprefix(GREETING)


def test_a_whole_chat(session, engine):
    engine.enqueue("a cat", "it is red", "a cat sleeps")
    keys = ["/image cat.png", "what is it", "", "/ask which colour", "/caption", "/quit"]
    assert chat(session, ENTER.join(keys) + ENTER) == (
        0,
        "a cat\nit is red\na cat sleeps\n",
        "[1] cat.png 64x48\n",
    )
    assert [call.prompt for call in engine.calls] == [
        "answer en what is it",
        "answer en which colour",
        "caption en",
    ]


def test_ctrl_d_leaves(session):
    assert chat(session, CTRL_D) == (0, "", "")


def test_an_error_costs_its_line_only(session, engine):
    engine.enqueue("fine")
    code, out, err = chat(session, f"/nope{ENTER}cat.png ok ?{ENTER}{CTRL_D}")
    assert (code, out) == (0, "fine\n")
    assert err.splitlines()[0].startswith("vlmchat: there is no command /nope: ")


def test_lines_of_one_question_become_one(session, engine):
    engine.enqueue("typed", "pasted")
    chat(session, f"one{ALT_ENTER}two{ENTER}\x1b[200~three\r\nfour\x1b[201~{ENTER}{CTRL_D}")
    assert [call.prompt for call in engine.calls] == ["answer en one two", "answer en three four"]


def test_ctrl_c_clears_the_line_and_twice_leaves(session, engine):
    engine.enqueue("an answer")
    keys = f"not this{CTRL_C}but this{ENTER}half{CTRL_C}{CTRL_C}{CTRL_C}never{ENTER}"
    code, out, err = chat(session, keys)
    assert (code, out) == (130, "an answer\n")
    assert err.endswith("to leave, press Ctrl-D, or Ctrl-C once more\n")
    assert [call.prompt for call in engine.calls] == ["answer en but this"]


def test_a_second_ctrl_c_counts_within_two_seconds_only(session, monkeypatch):
    clock = iter([100.0, 102.5, 104.0])
    monkeypatch.setattr(repl, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    code, _, err = chat(session, CTRL_C * 4)
    assert code == 130
    assert err.count(repl.LEAVE) == 2


def press_ctrl_c_when(paused):
    """A thread that interrupts this process once the engine says that it waits."""

    def press():
        assert paused.wait(30)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    return thread


def test_ctrl_c_stops_an_answer_and_keeps_what_was_written(session, engine):
    engine.enqueue("one two three", "the next")
    engine.pause_after = 2
    before = signal.getsignal(signal.SIGINT)
    thread = press_ctrl_c_when(engine.paused)
    code, out, err = chat(session, f"cat.png first{ENTER}second{ENTER}{CTRL_D}")
    thread.join()
    assert (code, out, err) == (0, "one two\nthe next\n", "[1] cat.png 64x48\n[stopped]\n")
    assert [turn.reply.finish_reason for turn in session.turns] == ["cancelled", "stop"]
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_before_the_first_token_ends_the_line(session, engine):
    engine.enqueue(KeyboardInterrupt(), "the next")
    code, out, err = chat(session, f"cat.png first{ENTER}second{ENTER}{CTRL_D}")
    assert (code, out, err) == (0, "the next\n", "[1] cat.png 64x48\n[stopped]\n")
    assert len(session.turns) == 1


def test_ctrl_c_raises_until_somebody_watches_and_when_pressed_twice():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), repl.CtrlC():
        signal.raise_signal(signal.SIGINT)
    with repl.CtrlC() as ctrl_c:
        assert ctrl_c.cancelled() is False
        signal.raise_signal(signal.SIGINT)
        assert ctrl_c.cancelled() is True
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_is_left_alone_in_other_threads(session, engine):
    engine.enqueue("an answer")
    screen = Screen(io.StringIO(), io.StringIO())
    thread = threading.Thread(target=repl._line, args=("what ?", session, screen))
    thread.start()
    thread.join()
    assert screen.out.getvalue() == "an answer\n"


def test_boxes_and_timing_are_shown_below_an_answer(session, engine):
    engine.enqueue("<loc0512><loc0000><loc1023><loc0512> cat")
    _, out, err = chat(session, f"cat.png{ENTER}/detect cat{ENTER}{CTRL_D}", verbose=True)
    assert out == "<loc0512><loc0000><loc1023><loc0512> cat\n"
    assert err.splitlines()[1:] == [
        "1  (0, 24) to (32, 48)  61%  cat",
        "[first token 0.50 s, 4.0 tokens/s, 0 tokens reused, 4 computed]",
    ]


def test_the_boxes_of_an_answer_are_shown_once(session, engine):
    engine.enqueue("<loc0512><loc0000><loc1023><loc0512> cat")
    _, _, err = chat(session, f"cat.png{ENTER}/detect cat{ENTER}/set seed{ENTER}{CTRL_D}")
    assert err.count("1  (0, 24)") == 1


def test_the_greeting_names_the_model_and_the_image(engine):
    session = Session(engine, model_name="some/model")
    session.add_image(Path("cat.png"))
    _, _, err = chat(session, CTRL_D)
    assert err == ("some/model (float32 on cpu)\nask about cat.png (64x48); /help says more\n")


def test_the_demo_model_shows_a_picture_to_try(session, monkeypatch):
    monkeypatch.setattr(repl, "SAMPLE", Path("cat.png"))
    _, _, err = chat(session, CTRL_D)
    assert err.splitlines()[1] == (
        'ask about cat.png (64x48): try "what is this?"; /help says more'
    )
    assert [picture.name for picture in session.pictures] == ["cat.png"]


def test_an_image_is_looked_at_while_the_person_types(session, engine):
    looked = threading.Event()
    engine.look = lambda *given: looked.set()
    screen = Screen(io.StringIO(), io.StringIO())
    with create_pipe_input() as keyboard:
        keyboard.send_text(f"/image cat.png{ENTER}")
        leave = threading.Thread(target=lambda: looked.wait(30) and keyboard.send_text(CTRL_D))
        leave.start()
        assert repl.run(session, screen, keyboard, DummyOutput()) == 0
        leave.join()
    assert looked.is_set()


def test_each_image_is_looked_at_once(session, engine):
    engine.enqueue("an answer")
    keys = ["/image cat.png", "what ?", "/show", "/image my dog.jpg", "/image 1"]
    chat(session, ENTER.join(keys) + ENTER + CTRL_D)
    assert [name for name, _, _ in engine.looks] == ["cat.png", "my dog.jpg", "cat.png"]


def test_an_error_while_looking_is_left_to_the_question(session, engine):
    def look(*_):
        raise RuntimeError("out of memory")

    engine.look = look
    engine.enqueue(RuntimeError("out of memory"))
    _, _, err = chat(session, f"/image cat.png{ENTER}what ?{ENTER}{CTRL_D}")
    assert err.count("out of memory") == 1


def test_leaving_ends_a_look_that_still_runs(session, engine):
    begun = threading.Event()

    def look(*_):
        begun.set()
        while True:
            pass

    engine.look = look
    session.add_image(Path("cat.png"))
    warmer = repl.Warmer(session)
    warmer.start()
    assert begun.wait(30)
    warmer.stop()
    assert not any(thread.is_alive() for thread in warmer._threads)


@pytest.fixture
def go():
    """Lets the load of `loading_session` end; what it holds in `error` makes it fail."""
    event = threading.Event()
    event.error = None
    return event


@pytest.fixture
def loading_session(engine, go):
    """A session whose model is on its way."""

    def load(progress):
        progress(1, 4)
        assert go.wait(30)
        if go.error is not None:
            raise go.error
        return Session(engine, notices=("the file has 7 rows",))

    loading = Loading(load)
    yield Session(loading, model_name="demo")
    go.set()
    loading.stop()


def test_a_question_waits_for_the_model_and_commands_do_not(
    loading_session, engine, go, monkeypatch
):
    monkeypatch.setattr(Loading, "wait", lambda *_: go.set())  # nothing else lets it end
    engine.enqueue("a cat", "red")
    keys = ["/set max-tokens 7", "/show", "/why", "what is it", "/show", "which colour"]
    code, out, err = chat(loading_session, ENTER.join(keys) + ENTER + CTRL_D)
    assert (code, out) == (0, "a cat\nred\n")
    said = err.splitlines()
    assert said[:2] == [
        "demo model (loading): it is small and knows drawn shapes (see --model-path)",
        GREETING.splitlines()[1],
    ]
    assert said[2] == "max-tokens = 7"
    assert said[3].startswith("model         demo (loading")
    assert said[4:6] == ["image         none", "prefix-cache  kv"]
    assert "vlmchat: no answer yet: ask something first" in said
    answered = said.index("the file has 7 rows")
    assert said[answered - 1] == "there is no image: this is answered from text alone"
    assert said[answered + 1] == "model         demo"
    assert err.count("the file has 7 rows") == 2  # by itself, and in /show
    assert loading_session.loading is None


@pytest.mark.parametrize("keys", ["", "half a line", f"what is it{ENTER}"])
def test_a_load_that_fails_ends_the_chat(loading_session, go, keys):
    go.error = UserError("model: damaged: download it again")
    go.set()
    with pytest.raises(UserError, match="damaged") as caught:
        chat(loading_session, keys)
    assert caught.value is go.error


def test_the_toolbar_and_show_say_how_far_the_load_is(loading_session, go):
    loading_session.add_image(Path("cat.png"))
    assert reports.status(loading_session) == "demo (loading) | [1] cat.png 64x48"
    loading = loading_session.loading
    loading.start()
    while not loading.progress[1]:
        loading.wait(0.01)
    assert reports.status(loading_session) == "demo (loading, 25%) | [1] cat.png 64x48"
    assert reports.show(loading_session).splitlines()[0] == "model         demo (loading, 25%)"
    go.set()
    loading.result()
    assert reports.status(loading_session) == (
        "demo | cpu float32 | [1] cat.png 64x48 | kv: nothing kept yet"
    )


def test_a_chat_can_be_left_while_the_model_loads(loading_session):
    loading_session.add_image(Path("cat.png"))
    assert chat(loading_session, f"/images{ENTER}{CTRL_D}")[0] == 0
    assert not loading_session.loading.is_over


def test_an_image_is_looked_at_once_the_model_is_there(loading_session, engine, go):
    looked = threading.Event()
    engine.look = lambda *given: looked.set()
    loading_session.add_image(Path("cat.png"))
    warmer = repl.Warmer(loading_session)
    warmer.start()
    loading_session.loading.start()
    assert not looked.is_set()
    go.set()
    assert looked.wait(30)
    warmer.stop()


COMPLETIONS = [
    ("/im", ["/image", "/images"]),
    ("/IM", ["/image", "/images"]),
    ("/q", ["/quit"]),
    ("/zzz", []),
    ("what", []),
    ("what /im", []),
    ("/image c", ["at.png"]),
    ("/load ", ["cat.png", "my dog.jpg", "pictures/"]),
    ("/image ./c", ["at.png"]),
    ("/image ~/c", ["at.png"]),
    ("/image 'my d", ["og.jpg'"]),
    ('/image "c', ['at.png"']),
    ("/image my\\ d", ["og.jpg"]),
    ("/image .\\/m", ["y\\ dog.jpg"]),
    ("/image pic", ["tures/"]),
    ("/image pictures/", []),
    ("/image .h", ["idden.gif"]),
    ("/image notes", []),
    ("/image gone/", []),
    ("./c", ["at.png"]),
    ("~/my d", ["og.jpg"]),
    ("'./c", ["at.png'"]),
    ("./cat.png what", []),
    ("/image my d", ["og.jpg"]),
    ("/save n", ["otes.txt"]),
    ("/set te", ["temperature", "template"]),
    ("/set prefix-cache ", ["kv", "exact"]),
    ("/set prefix-cache=e", ["exact"]),
    ("/set seed r", ["random"]),
    ("/set template ans", ["answer en {question}"]),
    ("/set max-tokens ", []),
    ("/set nope x", []),
    ("/help det", ["detect"]),
    ("/ask c", []),
    ("/nope c", []),
]


@pytest.mark.parametrize(("typed", "offered"), COMPLETIONS)
def test_completion(typed, offered):
    found = completion.LineCompleter().get_completions(Document(typed), CompleteEvent())
    assert [each.text for each in found] == offered


def test_completed_commands_say_what_they_do():
    (found,) = completion.LineCompleter().get_completions(Document("/qu"), CompleteEvent())
    assert found.display_meta_text == "leave"
    assert found.start_position == -3


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_history_is_kept_for_its_owner_only(session, engine, folder, monkeypatch):
    path = folder / "new" / "history"
    monkeypatch.setenv("VLMCHAT_HISTORY", str(path))
    engine.enqueue("one", "two")
    chat(session, f"remember me{ENTER}{CTRL_D}")
    chat(session, f"{UP}{ENTER}{CTRL_D}")
    assert [call.prompt for call in engine.calls] == ["answer en remember me"] * 2
    assert (mode(path.parent), mode(path)) == (0o700, 0o600)


def test_history_lives_in_the_state_folder(folder, monkeypatch):
    monkeypatch.delenv("VLMCHAT_HISTORY")
    monkeypatch.setattr(editor, "_state_folder", lambda: folder / "state" / "vlmchat")
    history = editor.open_history()
    assert isinstance(history, FileHistory)
    assert Path(os.fsdecode(history.filename)) == folder / "state" / "vlmchat" / "history"


def test_empty_history_variable_keeps_nothing():
    assert isinstance(editor.open_history(), InMemoryHistory)


def test_a_history_that_cannot_be_written_breaks_nothing(session, engine, folder, monkeypatch):
    engine.enqueue("one", "two")
    monkeypatch.setenv("VLMCHAT_HISTORY", str(folder / "cat.png" / "history"))
    assert chat(session, f"what ?{ENTER}{CTRL_D}")[1] == "one\n"
    path = folder / "gone" / "history"
    monkeypatch.setenv("VLMCHAT_HISTORY", str(path))
    history = editor.open_history()
    path.unlink()
    path.mkdir()
    history.store_string("what ?")
    assert list(history.load_history_strings()) == []


def test_json_answers_in_a_chat_too(engine):
    session = Session(engine, Settings(sampling=Sampling(max_tokens=1)), model_name="demo")
    engine.enqueue("a cat")
    _, out, _ = chat(session, f"what ?{ENTER}{CTRL_D}", as_json=True)
    assert out.startswith('{"schema": 1, "prompt": "answer en what ?", "text": "a",')
    assert out.endswith("}\n")
