"""The journal: what is written is read again, whoever wrote it, and whatever cut it short."""

import os
import stat
import subprocess
import sys

import pytest

from vlmchat.errors import UserError
from vlmchat.tracking.journal import Journal, JournalReader, left_over

RUN = {"kind": "run", "name": "ü \u2028 \U0001f600"}


def read(path):
    with JournalReader(path, alone=True) as reader:
        return list(reader.read())


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_records_come_back_and_belong_to_their_owner(tmp_path):
    journal = Journal(tmp_path / "state" / "journals")
    journal.append(RUN)
    journal.append({"kind": "turn", "step": 1})
    journal.close()
    assert read(journal.path) == [RUN, {"kind": "turn", "step": 1}]
    assert (mode(journal.path.parent), mode(journal.path)) == (0o700, 0o600)


def test_an_open_folder_is_closed_to_others(tmp_path):
    tmp_path.chmod(0o755)
    Journal(tmp_path).close()
    assert mode(tmp_path) == 0o700


def test_each_record_is_on_the_disk_when_append_returns(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_size))
    journal = Journal(tmp_path)
    journal.append(RUN)
    assert synced == [journal.path.stat().st_size]
    journal.close()


def test_what_is_no_unicode_is_written_all_the_same(tmp_path):
    journal = Journal(tmp_path)
    journal.append({"kind": "image", "name": "\udcff.png"})
    journal.close()
    assert read(journal.path) == [{"kind": "image", "name": "?.png"}]


def test_two_journals_of_one_second_are_two_files(tmp_path):
    first, second = Journal(tmp_path), Journal(tmp_path)
    assert first.path != second.path
    first.close()
    second.close()


def test_a_line_that_was_cut_short_is_left_alone(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"kind": "run"}\n{"kind": "tu')
    assert read(path) == [{"kind": "run"}]


@pytest.mark.parametrize("line", ["", "{", "[]", '"kind"', "{}", "\udcff"])
def test_any_other_bad_line_is_named(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"kind": "run"}\n' + os.fsencode(line) + b"\n")
    with pytest.raises(UserError, match="line 2 is no record of a chat"):
        read(path)


def test_a_folder_that_cannot_be_listed_has_nothing_left_over(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "missing", tmp_path / "file", tmp_path / ("x" * 300)):
        assert left_over(folder) == []


def test_a_missing_journal_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read the journal .*nope: No such file"):
        read(tmp_path / "nope")


def test_following_gives_lines_as_they_are_written(tmp_path):
    journal = Journal(tmp_path)
    journal.append({"kind": "run"})

    def pokes():
        for step in (1, 2):
            journal.append({"kind": "turn", "step": step})
            yield
        journal.append({"kind": "end"})

    with JournalReader(journal.path, alone=False) as reader:
        followed = list(reader.follow(pokes()))
    journal.close()
    assert followed == read(journal.path)
    assert [each["kind"] for each in followed] == ["run", "turn", "turn", "end"]


def test_only_journals_that_nobody_holds_are_left_over(tmp_path):
    live, gone = Journal(tmp_path), Journal(tmp_path)
    gone.append(RUN)
    gone.close()
    assert left_over(tmp_path) == [gone.path]
    with pytest.raises(UserError, match="still going on"):
        JournalReader(live.path, alone=True)
    with JournalReader(gone.path, alone=False):
        assert left_over(tmp_path) == []
    live.close()
    assert left_over(tmp_path) == sorted([live.path, gone.path])


def test_nothing_is_left_over_where_there_is_no_folder(tmp_path):
    assert left_over(tmp_path / "nope") == []


def test_a_killed_process_leaves_its_journal_over(tmp_path):
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from vlmchat.tracking.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1])); journal.append({'kind': 'turn', 'step': 1})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert ended.returncode == -9
    (path,) = left_over(tmp_path)
    assert read(path) == [{"kind": "turn", "step": 1}]
