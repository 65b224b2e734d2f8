"""The tracker beside a chat: what is written when, and that nothing of it harms the chat."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.scripted import ScriptedEngine
from tests.test_tracking_filer import Archive, needs_comet
from vlmchat.session import Session
from vlmchat.tracking import Tracker, filer, live
from vlmchat.tracking.destination import Destination
from vlmchat.tracking.journal import left_over


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("COMET_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(live, "PATIENCE", 60)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 48), "red").save(tmp_path / "cat.png")
    return tmp_path


@pytest.fixture
def journals(folder):
    return folder / "state" / "vlmchat" / "journals"


class IdleFiler:
    """A filer that does nothing, quickly; `lines` is what it says."""

    def __init__(self, journal, destination):
        self.lines = []
        self.pokes = 0
        self.is_done = True

    def poke(self):
        self.pokes += 1

    def finish(self, seconds):
        return self.is_done

    def said(self):
        lines, self.lines = self.lines, []
        return lines


@pytest.fixture
def idle(monkeypatch):
    """A tracker whose filer does nothing."""
    monkeypatch.setattr(live, "_Filer", IdleFiler)
    monkeypatch.setattr(live, "find_spec", lambda name: name)
    tracker = announced()
    yield tracker
    tracker.close()


def announced(environ=None):
    """A tracker that has said where the record goes."""
    tracker = live.CometTracker(Destination.read(environ or {}))
    assert [line.partition(",")[0] for line in tracker.news()] == ["tracked with Comet"]
    return tracker


def ask(session, tracker, *lines):
    for line in lines:
        session.answer(line)
        tracker.record(session, session.turns[-1])
        tracker.idle()


def fill_disk_of(tracker):
    """Let nothing more be written to a journal."""
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, tracker._journal._file.fileno())
    os.close(full)


def records(journals):
    (path,) = journals.glob("*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_nothing_is_made_before_the_first_turn(idle, journals):
    idle.close()
    assert idle.news() == []
    assert not journals.exists()


def test_a_turn_is_in_the_journal_when_record_returns(idle, journals):
    session = Session(ScriptedEngine("one", "two", "three"))
    ask(session, idle, "first")
    assert [each["kind"] for each in records(journals)] == ["run", "turn"]
    session.add_image("cat.png")
    ask(session, idle, "second", "third")
    idle.close()
    kinds = ["run", "turn", "image", "turn", "turn", "end"]
    assert [each["kind"] for each in records(journals)] == kinds
    turns = [each for each in records(journals) if each["kind"] == "turn"]
    assert [each["step"] for each in turns] == [1, 2, 3]
    assert idle._filer.pokes == 4


def test_forgetting_the_conversation_does_not_number_turns_anew(idle, journals):
    session = Session(ScriptedEngine("one", "two"))
    ask(session, idle, "first")
    session.clear()
    ask(session, idle, "second")
    assert [each.get("step") for each in records(journals)] == [None, 1, 2]


def test_what_the_filer_says_is_told_once(idle):
    ask(Session(ScriptedEngine("one")), idle, "first")
    idle._filer.lines = ["something"]
    assert idle.news() == ["something"]
    assert idle.news() == []


def test_a_slow_filer_is_not_waited_for(idle, journals):
    ask(Session(ScriptedEngine("one")), idle, "first")
    idle._filer.is_done = False
    idle.close()
    (line,) = idle.news()
    (path,) = journals.glob("*.jsonl")
    assert line.startswith("Comet is slow: ")
    assert line.endswith(f"vlmchat --track-import {path} files it")


def test_a_full_disk_ends_the_tracking_and_not_the_chat(idle, journals, monkeypatch):
    session = Session(ScriptedEngine("one", "two", "three"))
    ask(session, idle, "first")
    fill_disk_of(idle)
    ask(session, idle, "second", "third")
    idle.close()
    (path,) = journals.glob("*.jsonl")
    assert idle.news() == [
        f"not tracked from here on: cannot write {path} (No space left on device)"
    ]
    assert len(session.turns) == 3


def test_a_journal_that_could_not_be_begun_is_not_left_over(idle, journals, monkeypatch):
    def no_space(self, record):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(live.Journal, "append", no_space)
    ask(Session(ScriptedEngine("one", "two")), idle, "first", "second")
    (line,) = idle.news()
    assert line.endswith("(No space left on device)")
    assert list(journals.iterdir()) == []


def test_a_state_folder_that_cannot_be_made_is_told_once(idle, folder):
    (folder / "state").write_text("a file")
    ask(Session(ScriptedEngine("one", "two")), idle, "first", "second")
    assert idle.news() == [
        f"not tracked from here on: cannot write {folder}/state/vlmchat/journals (Not a directory)"
    ]


def test_without_comet_ml_one_line_says_how_to_get_it(journals, monkeypatch):
    monkeypatch.setattr(live, "find_spec", lambda name: None)
    tracker = live.CometTracker(Destination.read({}))
    ask(Session(ScriptedEngine("one", "two")), tracker, "first", "second")
    (line,) = tracker.news()
    assert line.endswith("comet_ml is not installed: pip install 'vlmchat[comet]'")
    assert not journals.exists()


def test_a_bug_in_tracking_is_told_once(idle, monkeypatch):
    monkeypatch.setattr(live.records, "turn_record", lambda *_: 1 / 0)
    ask(Session(ScriptedEngine("one", "two")), idle, "first", "second")
    (line,) = idle.news()
    assert "internal error (ZeroDivisionError: division by zero)" in line


@needs_comet
def test_a_chat_becomes_an_archive(folder, journals):
    """The whole way, with a real filer: the archive holds what the journal held."""
    tracker: Tracker = announced({"COMET_PROJECT_NAME": "p"})
    session = Session(ScriptedEngine("one", "two"), model_name="m")
    session.add_image("cat.png")
    ask(session, tracker, "first", "second")
    assert "comet_ml" not in sys.modules
    turns = [each for each in records(journals) if each["kind"] == "turn"]
    tracker.close()
    (line,) = tracker.news()
    (path,) = (folder / "state" / "vlmchat" / "comet").glob("*.zip")
    assert line == f"Comet archive: {path}; comet upload {path} sends it"
    assets = {name: data for name, _, _, data in Archive(path).uploads("asset")}
    assert [json.loads(assets[f"turn-000{n}.json"]) for n in (1, 2)] == turns
    assert list(journals.iterdir()) == []


@needs_comet
def test_a_killed_filer_is_told_once_and_the_journal_goes_on(journals):
    tracker = announced()
    session = Session(ScriptedEngine("one", "two"))
    ask(session, tracker, "first")
    process = tracker._filer._process
    process.kill()
    process.wait()
    ask(session, tracker, "second")
    tracker.close()
    (line,) = tracker.news()
    (path,) = journals.glob("*.jsonl")
    assert line == f"the tracking process ended (-9): {filer.kept(path)}"
    assert [each["kind"] for each in records(journals)] == ["run", "turn", "turn", "end"]
    assert left_over(journals) == [path]


@needs_comet
def test_what_a_full_disk_left_of_a_record_can_be_filed(journals):
    tracker = announced()
    session = Session(ScriptedEngine("one", "two", "three"))
    ask(session, tracker, "first")
    fill_disk_of(tracker)
    ask(session, tracker, "second", "third")
    tracker.close()
    (path,) = left_over(journals)
    why, kept = tracker.news()
    assert why.startswith("not tracked from here on: ")
    assert kept == f"the record is not whole: {filer.kept(path)}"


KILLED = """
import os, signal, sys
from tests.scripted import ScriptedEngine
from vlmchat.session import Session
from vlmchat.tracking.destination import Destination
from vlmchat.tracking.live import CometTracker

session, tracker = Session(ScriptedEngine("a cat", "red")), CometTracker(Destination.read())
for line in ("what ?", "which colour ?"):
    session.answer(line)
    tracker.record(session, session.turns[-1])
    tracker.idle()
print(tracker._filer._process.pid)
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


@needs_comet
def test_a_killed_chat_leaves_all_turns_and_no_process(folder, journals):
    root = str(Path(__file__).parent.parent)
    ended = subprocess.run(
        [sys.executable, "-c", KILLED],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([root, *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended
    wait_for_end(int(ended.stdout))
    (path,) = left_over(journals)
    texts = [each["text"] for each in records(journals) if each["kind"] == "turn"]
    assert texts == ["a cat", "red"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert not (folder / "state" / "vlmchat" / "comet").exists()


def wait_for_end(pid):
    """Wait until a process that is not our child has gone."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("the filer outlives its chat")
