"""Tracking as a person sees it: the flags, the lines that say so, pipes, the chat, by hand."""

import io
import json
import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
from PIL import Image
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

import vlmchat
from tests import chat
from tests.test_tracking_filer import Archive, clean_environment, needs_comet, write_journal
from vlmchat.cli import main
from vlmchat.session import Session
from vlmchat.terminal import batch, repl, tracked
from vlmchat.terminal.render import Screen
from vlmchat.tracking import live
from vlmchat.tracking.journal import Journal


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working folder, home and state folder of a person who never heard of Comet."""
    Image.new("RGB", (64, 48), "red").save(tmp_path / "cat.png")
    for name in [name for name in os.environ if name.startswith(("COMET_", "VLMCHAT_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(live, "PATIENCE", 60)
    monkeypatch.setenv("VLMCHAT_HISTORY", "")
    monkeypatch.setitem(vars(vlmchat), "load", chat.load)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(monkeypatch, capsys):
    """A function that runs `vlmchat` in a pipe: its exit code, stdout and stderr."""

    def run(*flags, typed=""):
        stdin = io.TextIOWrapper(io.BytesIO(typed.encode()), encoding="utf-8")
        monkeypatch.setattr(sys, "stdin", stdin)
        code = main(flags)
        return code, *capsys.readouterr()

    return run


def journals(folder):
    return sorted((folder / "state" / "vlmchat" / "journals").glob("*"))


def archives(folder):
    return sorted((folder / "state" / "vlmchat" / "comet").glob("*"))


def test_without_configuration_nothing_of_comet_is_imported(folder):
    """Neither here nor in another process: none is started."""
    program = """
import subprocess, sys
from tests import chat
chat.vlmchat.load = chat.load
subprocess.Popen = None
assert chat.main(["--ask", "what", "--image", "cat.png"]) == 0
assert not [name for name in sys.modules if name.startswith(("comet", "sentry"))]
assert not {"vlmchat.tracking.live", "vlmchat.tracking.records"} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=clean_environment(folder),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    answer = "you asked: answer en what !\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, answer, "")
    assert not (folder / "state").exists()


@needs_comet
def test_one_run_of_ask_is_one_archive(folder, run):
    code, out, err = run("--track", "--image", "cat.png", "--ask", "one", "--ask", "two")
    assert (code, out) == (0, "you asked: answer en one !\nyou asked: answer en two !\n")
    (path,) = archives(folder)
    assert err.splitlines() == [
        f"tracked with Comet, offline for project vlmchat, into {path.parent}: "
        "--no-track or /set track off stops it",
        f"Comet archive: {path}; comet upload {path} sends it",
    ]
    texts = Archive(path).uploads("text-sample")
    assert [(step, data.decode()) for _, step, _, data in texts] == [
        (1, "you asked: answer en one !"),
        (2, "you asked: answer en two !"),
    ]
    assert journals(folder) == []
    assert "comet_ml" not in sys.modules


@needs_comet
def test_a_pipe_is_tracked_when_comet_is_configured_and_while_the_setting_is_on(
    folder, run, monkeypatch
):
    (folder / ".comet.config").write_text("[comet]\napi_key=k\nproject_name=p\nworkspace=w\n")
    monkeypatch.setenv("COMET_OFFLINE_DIRECTORY", "archives")
    lines = "first\n/set track off\nnot this\n/set track on\nlast\n"
    _, _, err = run(typed=lines)
    (path,) = (folder / "archives").glob("*.zip")
    archive = Archive(path)
    assert archive.experiment["project_name"] == "p"
    assert archive.experiment["workspace"] == "w"
    assert [(step, data) for _, step, _, data in archive.uploads("text-sample")] == [
        (1, b"you asked: answer en first !"),
        (2, b"you asked: answer en last !"),
    ]
    announced = f"tracked with Comet, offline for project p of workspace w, into {path.parent}: "
    assert err.startswith(announced)


@needs_comet
def test_a_chat_can_be_put_on_record_while_it_goes_on(folder):
    screen = Screen(io.StringIO(), io.StringIO())
    session = Session(chat.Echo(), model_name="m")
    with create_pipe_input() as keyboard:
        keyboard.send_text("one\r/set track on\rtwo\r\x04")
        with tracked.tracked(session, None, screen):
            repl.run(session, screen, keyboard, DummyOutput())
    (path,) = archives(folder)
    assert screen.err.getvalue().splitlines()[-4:] == [
        "track = on",
        "there is no image: this is answered from text alone",
        f"tracked with Comet, offline for project vlmchat, into {path.parent}: "
        "--no-track or /set track off stops it",
        f"Comet archive: {path}; comet upload {path} sends it",
    ]
    texts = [data for *_, data in Archive(path).uploads("text-sample")]
    assert texts == [b"you asked: answer en two !"]


def test_no_track_tracks_nothing(folder, run, monkeypatch):
    monkeypatch.setenv("COMET_API_KEY", "k")
    _, out, err = run("--no-track", "--image", "cat.png", "--ask", "what")
    assert (out, err) == ("you asked: answer en what !\n", "")
    assert not (folder / "state").exists()


def test_a_chat_without_an_answer_leaves_no_trace(folder, run):
    assert run("--track", typed="/help\n")[0] == 0
    assert not (folder / "state").exists()


@needs_comet
def test_an_address_that_hangs_delays_no_answer_and_costs_one_line(folder):
    """Comet is being called, and does not answer, while questions are asked and answered."""
    pexpect = pytest.importorskip("pexpect")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        environment = clean_environment(
            folder,
            COMET_API_KEY="k",
            COMET_URL_OVERRIDE=f"http://127.0.0.1:{server.getsockname()[1]}/",
            COMET_HTTP_SESSION_RETRY_TOTAL="1",
            COMET_GET_OR_ADD_EXPERIMENT_RETRY_TOTAL="1",
            PROMPT_TOOLKIT_NO_CPR="1",
            TERM="dumb",
        )
        child = pexpect.spawn(
            sys.executable,
            ["-m", "tests.chat", "--image", "cat.png"],
            env=environment,
            cwd=folder,
            encoding="utf-8",
            dimensions=(24, 400),
            timeout=60,
        )
        child.expect_exact("tracked with Comet, project vlmchat: ")
        child.expect(">>>")
        child.send("one\r")
        child.expect_exact("you asked: answer en one !\r\n")
        called, _ = server.accept()
        child.expect(">>>")
        child.send("two\r")
        child.expect_exact("you asked: answer en two !\r\n")
        called.close()
        server.close()
        child.expect(">>>")
        said = child.before
        child.send("\x04")
        child.expect(pexpect.EOF)
        said += child.before
        child.close()
    (path,) = journals(folder)
    (failed,) = [line for line in said.splitlines() if "Comet" in line]
    assert failed.endswith(f"vlmchat --track-import {path} files it")
    assert child.exitstatus == 0
    kinds = [json.loads(line)["kind"] for line in path.read_text().splitlines()]
    assert kinds == ["run", "image", "turn", "turn", "end"]


def ask(child, question):
    """Type a question and read its answer."""
    child.stdin.write(f"{question}\n")
    assert child.stdout.readline() == f"you asked: answer en {question} !\n"


@pytest.mark.parametrize("typed", [True, False])
def test_comet_works_when_nobody_waits_for_an_answer(folder, monkeypatch, typed):
    """While a person types, and for a pipe at the end."""
    calls = []
    tracker = SimpleNamespace(
        record=lambda session, turn: calls.append("record"),
        idle=lambda: calls.append("idle"),
        news=list,
        close=lambda: calls.append("close"),
    )
    monkeypatch.setattr(live, "CometTracker", lambda *_: tracker)
    screen = Screen(io.StringIO(), io.StringIO())
    session = Session(chat.Echo(), model_name="demo")
    with tracked.tracked(session, True, screen), create_pipe_input() as keyboard:
        keyboard.send_text("one\rtwo\r\x04")
        if typed:
            repl.run(session, screen, keyboard, DummyOutput())
        else:
            batch.run(["one", "two"], session, screen)
    between = ["idle"] if typed else []
    assert calls == [*between, "record", *between, "record", *between, "close"]


@needs_comet
def test_a_killed_chat_is_offered_at_the_next_start(folder, run):
    with subprocess.Popen(
        [sys.executable, "-m", "tests.chat", "--track"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=clean_environment(folder),
        cwd=folder,
        text=True,
        bufsize=1,
    ) as child:
        ask(child, "one")
        ask(child, "two")
        child.stdin.write("wait\n")
        assert child.stdout.read(10) == "you asked:"
        assert "earlier chat" not in run("--track")[-1]  # it still goes on
        child.kill()
    (path,) = journals(folder)
    texts = [json.loads(line).get("text") for line in path.read_text().splitlines()]
    assert texts == [None, "you asked: answer en one !", "you asked: answer en two !"]
    offered = run("--track")[-1].splitlines()[1:]
    assert offered == [f"an earlier chat was not filed: vlmchat --track-import {path} does it"]


@needs_comet
def test_a_folder_of_journals_is_filed_by_hand(folder, run):
    path = write_journal(folder, "run", "turn")
    code, out, err = run("--track-import", str(path.parent))
    (archive,) = archives(folder)
    assert (code, out) == (0, "")
    assert err == f"Comet archive: {archive}; comet upload {archive} sends it\n"
    assert journals(folder) == []
    assert run("--track-import", str(path.parent)) == (
        0,
        "",
        f"no chat is left over in {path.parent}\n",
    )


def test_several_chats_are_offered_as_their_folder(folder):
    assert live.offer_left_over([]) is None
    paths = [folder / "a b" / "1.jsonl", folder / "a b" / "2.jsonl"]
    assert live.offer_left_over(paths) == (
        f"2 earlier chats were not filed: vlmchat --track-import '{folder}/a b' does it"
    )


@needs_comet
def test_a_chat_that_goes_on_is_not_filed_by_hand(folder, run):
    journal = Journal()
    journal.append({"kind": "run"})
    code, _, err = run("--track-import", str(journal.path))
    journal.close()
    assert (code, err) == (
        1,
        f"vlmchat: the chat of {journal.path} is still going on: leave it first\n",
    )


@needs_comet
@pytest.mark.parametrize("name", ["missing.jsonl", "cat.png"])
def test_what_cannot_be_filed_is_one_line_and_exit_code_1(run, name):
    code, out, err = run("--track-import", name)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("vlmchat: ")
    assert name in err


def test_without_comet_ml_the_chat_goes_on_and_one_line_says_why(folder, run, monkeypatch):
    monkeypatch.setattr(live, "find_spec", lambda name: None)
    monkeypatch.setattr(tracked, "find_spec", lambda name: None)
    missing = "comet_ml is not installed: pip install 'vlmchat[comet]'\n"
    assert run("--track", "--image", "cat.png", "--ask", "what", "--ask", "what") == (
        0,
        "you asked: answer en what !\n" * 2,
        f"not tracked from here on: {missing}",
    )
    assert run("--track-import", "x") == (1, "", f"vlmchat: {missing}")
    assert not (folder / "state").exists()
