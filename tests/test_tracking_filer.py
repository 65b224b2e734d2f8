"""The filer: a journal goes in, an offline archive comes out, and is opened and read.

comet_ml runs in the filer's own processes only, never in that of the tests.
"""

import csv
import io
import json
import os
import re
import stat
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from tests.scripted import ScriptedEngine
from vlmchat.session import Session, Settings
from vlmchat.tracking import filer, records
from vlmchat.tracking.destination import Destination
from vlmchat.tracking.journal import Journal, left_over

# Not pytest.importorskip, which would import it here.
needs_comet = pytest.mark.skipif(find_spec("comet_ml") is None, reason="comet_ml is missing")
BOX = "<loc0256><loc0256><loc0767><loc0767> cat"
# What Comet adds to an archive by itself, whatever is switched off.
COMETS_OWN = {"offline_experiment", "curr_step", "process duration"}


def clean_environment(folder, **more):
    """The environment of a person who never heard of Comet, with a state folder of its own."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("COMET_", "VLMCHAT_"))}
    root = str(Path(__file__).parent.parent)
    return {
        **ours,
        "HOME": str(folder),
        "XDG_STATE_HOME": str(folder / "state"),
        "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]),
        **more,
    }


def write_journal(folder, *kinds):
    """The journal of a chat about two images with four turns; of these kinds only, if given."""
    for name, color in (("cat.png", "red"), ("dog.png", "blue")):
        Image.new("RGB", (64, 48), color).save(folder / name)
    engine = ScriptedEngine("a cat", BOX, "a dog", "=a cat, again\nand more")
    session = Session(engine, Settings(), model_name="a/model")
    chat = [("cat.png", "what ?"), ("cat.png", "detect cat"), ("dog.png", "what ?")]
    chat += [("cat.png", "caption en")]
    written = [records.run_record(session)]
    seen = set()
    for step, (name, line) in enumerate(chat, 1):
        number = session.add_image(folder / name)
        session.answer(line)
        if number not in seen:
            written.append(records.image_record(session.pictures[number - 1]))
        seen.add(number)
        written.append(records.turn_record(session, session.turns[-1], step))
    written.append(records.end_record())
    journal = Journal(folder / "state" / "vlmchat" / "journals")
    for record in written:
        if not kinds or record["kind"] in kinds:
            journal.append(record)
    journal.close()
    return journal.path


def file(journal, folder, *flags, **more):
    """Run the filer on a journal."""
    return subprocess.run(
        [sys.executable, "-m", "vlmchat.tracking.filer", *flags, str(journal)],
        env=clean_environment(folder, **more),
        cwd=folder,
        input="",
        capture_output=True,
        text=True,
        check=False,
    )


class Archive:
    """An offline archive: its messages by type, and the bytes of its uploads."""

    def __init__(self, path):
        self.path = path
        with zipfile.ZipFile(path) as archive:
            self.files = {name: archive.read(name) for name in archive.namelist()}
        self.experiment = json.loads(self.files["experiment.json"])
        lines = self.files["messages.json"].decode().splitlines()
        self.messages = [json.loads(line) for line in lines]

    def of(self, type_):
        return [each["payload"] for each in self.messages if each["type"] == type_]

    def uploads(self, type_):
        """(name, step, metadata, bytes) of each upload of a type, in order."""
        return [
            (
                each["additional_params"].get("fileName") or each["additional_params"]["figName"],
                each["additional_params"]["step"],
                each["metadata"],
                self.files[each["file_path"]],
            )
            for each in self.of("file_upload")
            if each["upload_type"] == type_
        ]


@pytest.fixture(scope="session")
def filed(tmp_path_factory):
    """What the filer did with a whole chat: folder, journal, its lines, process, archive.

    The person's settings ask for the automatic captures, which must stay off all the same.
    """
    if find_spec("comet_ml") is None:
        pytest.skip("comet_ml is not installed")
    folder = tmp_path_factory.mktemp("filed")
    journal = write_journal(folder)
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    captures = ("CODE", "GIT_METADATA", "GIT_PATCH", "ENV_DETAILS", "ENV_HOST", "CLI_ARGUMENTS")
    wanted = {f"COMET_AUTO_LOG_{name}": "true" for name in captures}
    done = file(journal, folder, COMET_PROJECT_NAME="proj", COMET_WORKSPACE="work", **wanted)
    assert done.returncode == filer.FILED, done
    (path,) = (folder / "state" / "vlmchat" / "comet").glob("*.zip")
    return folder, journal, lines, done, Archive(path)


@pytest.fixture
def archive(filed):
    return filed[-1]


def test_the_archive_is_named_private_and_the_journal_deleted(filed):
    _, journal, _, done, archive = filed
    assert done.stdout == f"Comet archive: {archive.path}; comet upload {archive.path} sends it\n"
    assert done.stderr == ""
    assert stat.S_IMODE(archive.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(archive.path.parent.stat().st_mode) == 0o700
    assert not journal.exists()
    assert archive.experiment["project_name"] == "proj"
    assert archive.experiment["workspace"] == "work"


def test_parameters_are_the_model_and_the_sampling(filed, archive):
    run = filed[2][0]
    logged = {each["param"]["paramName"]: each["param"]["paramValue"]
              for each in archive.of("parameter_msg")}  # fmt: skip
    logged.pop("curr_step")
    assert logged == {
        "model": "a/model",
        "parameters": 1_234_567,
        "weight_bytes": 4_938_268,
        "dtype": "float32",
        "device": "cpu",
        "quantize": "none",
        "image_tokens": 16,
        "temperature": 0.0,
        "top_k": 0,
        "top_p": 1.0,
        "max_tokens": 256,
        "seed": "random",
        "prefix_cache": "kv",
        "template": "answer en {question}",
    }
    others = {each["key"]: each["value"] for each in archive.of("log_other")}
    versions = {f"version of {name}": number for name, number in run["versions"].items()}
    assert others == {
        "offline_experiment": True,
        "Name": f"a/model {run['started']}",
        "started": run["started"],
        **versions,
    }


def test_metrics_of_each_turn_stand_at_its_step(filed, archive):
    turns = [each for each in filed[2] if each["kind"] == "turn"]
    logged = [each["metric"] for each in archive.of("metric_msg")]
    ours = [each for each in logged if each["metricName"] not in COMETS_OWN]
    steps = [each["step"] for each in ours]
    assert steps == sorted(steps)
    for turn in turns:
        values = {e["metricName"]: e["metricValue"] for e in ours if e["step"] == turn["step"]}
        assert values == {
            **turn["timing"],
            "reused_tokens": turn["prefix"]["reused_tokens"],
            "computed_tokens": turn["prefix"]["computed_tokens"],
            "answer_tokens": len(turn["token_ids"]),
            "mean_logprob": pytest.approx(sum(turn["logprobs"]) / len(turn["logprobs"])),
            "peak_memory_process_bytes": turn["memory"]["process_bytes"],
        }


def test_answers_are_texts_and_whole_turns_are_assets(filed, archive):
    turns = [each for each in filed[2] if each["kind"] == "turn"]
    texts = archive.uploads("text-sample")
    assert [(step, data.decode()) for _, step, _, data in texts] == [
        (turn["step"], turn["text"]) for turn in turns
    ]
    assert texts[1][2] == {"prompt": "detect cat", "image": "cat.png", "finish_reason": "stop"}
    assets = {name: data for name, _, _, data in archive.uploads("asset")}
    assert sorted(assets) == [
        "conversation.csv",
        "conversation.txt",
        "model_config.json",
        *(f"turn-{n:04}.json" for n in range(1, 5)),
    ]
    assert [json.loads(assets[f"turn-{n:04}.json"]) for n in range(1, 5)] == turns
    assert json.loads(assets["model_config.json"]) == {"image_tokens": 16}


def test_the_conversation_is_a_table_and_a_text(archive):
    assets = {name: data.decode() for name, _, _, data in archive.uploads("asset")}
    header, *rows = csv.reader(io.StringIO(assets["conversation.csv"], newline=""))
    assert header[:5] == ["step", "image", "line", "prompt", "answer"]
    assert [row[:5] for row in rows] == [
        ["1", "cat.png", "what ?", "answer en what ?", "a cat"],
        ["2", "cat.png", "detect cat", "detect cat", BOX],
        ["3", "dog.png", "what ?", "answer en what ?", "a dog"],
        ["4", "cat.png", "caption en", "caption en", "=a cat, again\nand more"],
    ]
    assert assets["conversation.txt"].startswith("1. what ?  (cat.png)\na cat\n\n2. detect cat")


def test_each_image_is_there_once_and_again_with_its_boxes(archive):
    images = [
        (name, step, Image.open(io.BytesIO(data)).convert("RGB"))
        for name, step, _, data in archive.uploads("visualization")
    ]
    assert [(name, step) for name, step, _ in images] == [
        ("cat.png", 1),
        ("cat.png with the boxes of turn 2", 2),
        ("dog.png", 3),
    ]
    cat, drawn, dog = (image for *_, image in images)
    assert cat.tobytes() == Image.new("RGB", (64, 48), "red").tobytes()
    assert dog.tobytes() == Image.new("RGB", (64, 48), "blue").tobytes()
    assert drawn.size == cat.size
    assert drawn.getpixel((2, 2)) == drawn.getpixel((32, 24)) == (255, 0, 0)
    assert drawn.tobytes() != cat.tobytes()


def test_nothing_else_is_in_the_archive(archive):
    """Every message is one that we sent or one of the few that Comet adds; every file is ours."""
    types = {each["type"] for each in archive.messages}
    assert types == {"parameter_msg", "metric_msg", "log_other", "file_upload"}
    uploads = archive.of("file_upload")
    assert {each["upload_type"] for each in uploads} == {"visualization", "text-sample", "asset"}
    members = {each["file_path"] for each in uploads} | {"experiment.json", "messages.json"}
    table = next(each[-1] for each in archive.uploads("asset") if each[0] == "conversation.csv")
    rest = [data for name, data in archive.files.items() if name not in members]
    assert rest == [table]  # comet_ml leaves a second copy of a table
    own = [each["param"]["paramName"] for each in archive.of("parameter_msg")
           if each["param"]["source"] != "manual"]  # fmt: skip
    assert set(own) == {"curr_step"}
    assert sorted(archive.experiment) == [
        "comet_start_sourced",
        "customer_error_message",
        "customer_error_reported",
        "offline_id",
        "project_name",
        "resume_strategy",
        "start_time",
        "stop_time",
        "tags",
        "user_provided_experiment_key",
        "workspace",
    ]


def test_the_archive_does_not_know_this_machine(filed, archive):
    folder, *_ = filed
    texts = [data for data in archive.files.values() if not data.startswith(b"\x89PNG")]
    assert len(texts) >= 10
    for secret in (os.uname().nodename, str(folder), os.getcwd(), sys.executable):
        assert not any(says(data, secret) for data in texts)


def says(data, word):
    """Whether a word is in some bytes, as one of its own: a host may be called `vm`."""
    return re.search(rb"(?<!\w)" + re.escape(word.encode()) + rb"(?!\w)", data) is not None


@needs_comet
def test_a_chat_that_was_cut_off_is_filed_by_hand(tmp_path):
    journal = write_journal(tmp_path, "run", "image", "turn")
    with journal.open("a") as torn:
        torn.write('{"kind": "tur')
    followed = file(journal, tmp_path, "--follow")
    assert (followed.returncode, followed.stdout) == (filer.CUT_OFF, "")
    assert left_over(journal.parent) == [journal]
    assert not (tmp_path / "state" / "vlmchat" / "comet").exists()
    by_hand = file(journal, tmp_path)
    assert by_hand.returncode == filer.FILED
    (path,) = (tmp_path / "state" / "vlmchat" / "comet").glob("*.zip")
    names = [name for name, *_ in Archive(path).uploads("asset")]
    assert "turn-0004.json" in names
    assert "conversation.txt" in names
    assert not journal.exists()


@needs_comet
def test_a_journal_from_elsewhere_is_kept(tmp_path):
    journal = write_journal(tmp_path, "run", "turn")
    elsewhere = journal.rename(tmp_path / "mine.jsonl")
    assert file(elsewhere, tmp_path).returncode == filer.FILED
    assert elsewhere.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "does not begin with a run"),
        ('{"kind": "turn"}\n', "does not begin with a run"),
        ("a text file\n", "line 1 is no record of a chat"),
    ],
)
def test_what_is_no_journal_is_refused_in_one_line(tmp_path, text, said):
    path = tmp_path / "notes.txt"
    path.write_text(text)
    done = file(path, tmp_path)
    assert done.returncode == filer.SAID_WHY
    assert said in done.stdout
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


@needs_comet
@pytest.mark.parametrize(
    "more",
    [
        {"COMET_API_KEY": "k", "COMET_URL_OVERRIDE": "http://127.0.0.1:9/"},
        {"COMET_OFFLINE_DIRECTORY": "/dev/null/archives"},
    ],
    ids=["dead address", "no folder"],
)
def test_what_comet_does_not_take_stays_in_the_journal(tmp_path, more):
    journal = write_journal(tmp_path)
    done = file(journal, tmp_path, COMET_HTTP_SESSION_RETRY_TOTAL="0", **more,
                COMET_GET_OR_ADD_EXPERIMENT_RETRY_TOTAL="0")  # fmt: skip
    assert done.returncode == filer.SAID_WHY
    assert done.stdout.startswith("Comet did not take the record (")
    assert done.stdout.endswith(f"vlmchat --track-import {journal} files it\n")
    assert done.stdout.count("\n") == 1
    assert left_over(journal.parent) == [journal]


@needs_comet
def test_a_reason_is_short_and_never_shows_the_key(tmp_path):
    journal = write_journal(tmp_path)
    key = "sEcReT" * 5
    done = file(journal, tmp_path, COMET_API_KEY=key, COMET_START_MODE="get")
    assert done.returncode == filer.SAID_WHY
    assert "InitParameters" not in done.stdout
    assert key not in done.stdout


def test_the_filer_finds_what_we_find_and_nothing_beside_the_chat(tmp_path, monkeypatch):
    """No library is imported from the folder that a person happens to be in."""
    (tmp_path / "comet_ml.py").write_text("raise SystemExit('a trap')")
    (tmp_path / "json.py").write_text("raise SystemExit('a trap')")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.jsonl").write_text("no journal\n")
    with (tmp_path / "said").open("wb") as said:
        process = filer.start(Path("notes.jsonl"), Destination.read({}), follow=False, said=said)
        assert process.wait() == filer.SAID_WHY
    assert "no record of a chat" in (tmp_path / "said").read_text()
