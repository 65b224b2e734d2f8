"""The session: images by number, failed images, questions, turns, and what survives a failure."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.scripted import TIMING, Call, ScriptedEngine
from vlmchat.engine import Piece, Reply
from vlmchat.errors import UserError
from vlmchat.images import ImageError
from vlmchat.sampling import Sampling
from vlmchat.session import Session, Settings


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (64, 48), "red").save(tmp_path / "cat.png")
    Image.new("RGB", (30, 90), "blue").save(tmp_path / "dog.png")
    (tmp_path / "copy.png").write_bytes((tmp_path / "cat.png").read_bytes())
    (tmp_path / "broken.png").write_bytes(b"no image at all")
    return tmp_path


def answer(session, text, **kwargs):
    """Ask and return the whole stream."""
    return list(session.ask(session.prompt_for(text), text, **kwargs))


def test_images_are_numbered_and_a_known_one_keeps_its_number(folder):
    session = Session(ScriptedEngine())
    assert session.add_image(folder / "cat.png") == 1
    assert session.add_image(folder / "dog.png") == 2
    assert session.current.size == (30, 90)
    assert session.add_image(folder / "cat.png") == 1
    assert session.current is session.pictures[0]
    assert [picture.size for picture in session.pictures] == [(64, 48), (30, 90)]
    session.select(2)
    assert session.current is session.pictures[1]


def test_a_copy_under_another_name_is_an_image_of_its_own_with_the_same_key(folder):
    session = Session(ScriptedEngine("a cat"))
    session.add_image(folder / "cat.png")
    assert session.add_image(folder / "copy.png") == 2
    assert answer(session, "what is this")[-1].text == "a cat"
    assert session.turns[0].image == "copy.png"
    assert session.pictures[0].key == session.pictures[1].key  # what is kept serves both


def test_bytes_load_under_the_name_that_is_given(folder):
    session = Session(ScriptedEngine())
    session.add_image((folder / "cat.png").read_bytes(), "stdin")
    assert session.current.name == "stdin"


@pytest.mark.parametrize("name", ["broken.png", "missing.png"])
def test_a_failed_image_is_never_answered_about_the_one_before(folder, name):
    session = Session(ScriptedEngine("fine again"))
    session.add_image(folder / "cat.png")
    with pytest.raises(ImageError):
        session.add_image(folder / name)
    assert session.current is None
    assert session.failed == name
    with pytest.raises(UserError, match=f"^{name} is not loaded: .*/image none"):
        session.ask("what is this", "what is this")
    assert session.turns == []
    session.select(1)
    assert answer(session, "what is this")[-1].text == "fine again"
    assert session.turns[0].image == session.pictures[0].name


@pytest.mark.parametrize("number", [0, -1, 3])
def test_an_unknown_number_counts_as_a_failed_image(folder, number):
    session = Session(ScriptedEngine())
    session.add_image(folder / "cat.png")
    session.add_image(folder / "dog.png")
    with pytest.raises(UserError, match=f"^there is no image {number}: choose one from 1 to 2$"):
        session.select(number)
    with pytest.raises(UserError, match=f"^image {number} is not loaded"):
        session.ask("what is this")


def test_an_interrupted_loading_counts_as_a_failed_image(folder, monkeypatch):
    def interrupted(source, name=None):
        raise KeyboardInterrupt

    session = Session(ScriptedEngine())
    session.add_image(folder / "cat.png")
    monkeypatch.setattr("vlmchat.images.load_picture", interrupted)
    with pytest.raises(KeyboardInterrupt):
        session.add_image(folder / "dog.png")
    assert (session.current, session.failed) == (None, "dog.png")


def test_letting_go_of_a_failed_image_allows_questions_from_text_alone(folder):
    engine = ScriptedEngine("from text")
    session = Session(engine)
    with pytest.raises(ImageError):
        session.add_image(folder / "broken.png")
    session.drop_image()
    assert answer(session, "hello")[-1].text == "from text"
    assert engine.calls == [Call("answer en hello", None, Sampling(), "kv")]
    assert (session.turns[0].image, session.turns[0].size) == (None, None)


def test_a_question_streams_pieces_and_then_one_reply_and_is_remembered(folder):
    engine = ScriptedEngine("two words")
    session = Session(engine, Settings(Sampling(max_tokens=9), "exact", "q: {question}"))
    session.add_image(folder / "cat.png")
    *pieces, reply = answer(session, "what is this")
    assert [piece.text for piece in pieces] == ["two", " words", ""]
    assert all(isinstance(piece, Piece) for piece in pieces)
    assert reply == Reply(
        prompt="q: what is this",
        text="two words",
        token_ids=(10, 11, 1),
        logprobs=(-0.5, -0.5, -0.25),
        finish_reason="stop",
        prefix_mode="exact",
        reused_tokens=0,
        computed_tokens=6,
        timing=TIMING,
    )
    name = session.current.name
    assert engine.calls == [Call("q: what is this", name, Sampling(max_tokens=9), "exact")]
    [turn] = session.turns
    assert (turn.line, turn.image, turn.size) == ("what is this", name, (64, 48))
    assert turn.reply is reply


def test_answer_is_the_whole_reply_to_a_question_as_typed(folder):
    session = Session(ScriptedEngine("a cat"))
    session.add_image(str(folder / "cat.png"))
    reply = session.answer("what is this ?")
    assert (reply.prompt, reply.text) == ("answer en what is this ?", "a cat")
    assert (session.turns[0].line, session.turns[0].size) == ("what is this ?", (64, 48))


def test_settings_count_from_the_next_question_on(folder):
    engine = ScriptedEngine("one two three", "one two three")
    session = Session(engine)
    assert answer(session, "hi")[-1].finish_reason == "stop"
    session.settings = replace(session.settings, sampling=Sampling(max_tokens=2))
    assert answer(session, "hi")[-1].finish_reason == "length"


def test_detections_are_read_from_the_answer_of_a_question_with_an_image(folder):
    found = "<loc0000><loc0000><loc1023><loc1023> cat ; <loc0100><loc0200><loc0300><loc0400> dog"
    session = Session(ScriptedEngine(found, found))
    session.add_image(folder / "cat.png")
    answer(session, "detect cat ; dog")
    session.drop_image()
    answer(session, "detect cat ; dog")
    assert [each.label for each in session.turns[0].detections] == ["cat", "dog"]
    assert session.turns[1].detections == ()


PROMPTS = [
    ("what is this ?", "answer en what is this ?"),
    ("  what is this ?  ", "answer en what is this ?"),
    ("what\nis\r\nthis ?\n", "answer en what is this ?"),
    ("detect cat ; dog", "detect cat ; dog"),
    ("caption de", "caption de"),
    ("answer en why ?", "answer en why ?"),
    ("detective stories ?", "answer en detective stories ?"),
]


@pytest.mark.parametrize(("text", "prompt"), PROMPTS)
def test_prompts(text, prompt):
    assert Session(ScriptedEngine()).prompt_for(text) == prompt


def test_questions_asked_together_are_remembered_as_they_are_read(folder):
    session = Session(ScriptedEngine("a cat", "red", "sleeping"))
    session.add_image(folder / "cat.png")
    streams = session.ask_together([("p", "first"), ("q", "second"), ("r", "third")])
    session.add_image(folder / "dog.png")
    assert session.last_question == ("r", "third")
    for count, stream in enumerate(streams):
        assert len(session.turns) == count
        *_, reply = stream
        assert session.turns[-1].reply is reply
    assert [turn.line for turn in session.turns] == ["first", "second", "third"]
    assert {turn.size for turn in session.turns} == {(64, 48)}
    assert session.engine.batches == [["p", "q", "r"]]
    session.fail_image("no.png")
    with pytest.raises(UserError, match=r"^no\.png is not loaded: "):
        session.ask_together([("p", "p"), ("q", "q")])


def test_answers_are_the_replies_to_several_questions_as_typed():
    session = Session(ScriptedEngine("before", "a cat", "red"))
    session.answer("hello")
    replies = session.answers(["what is this ?", "caption en"])
    assert [reply.prompt for reply in replies] == ["answer en what is this ?", "caption en"]
    assert [reply.text for reply in replies] == ["a cat", "red"]
    assert session.answers([]) == []


def test_a_cancelled_answer_keeps_what_was_printed(folder):
    engine = ScriptedEngine("one two three four", "next")
    session = Session(engine)
    printed = []
    for part in session.ask("p", "p", cancelled=lambda: len(printed) == 2):
        if isinstance(part, Piece):
            printed.append(part.text)
    assert printed == ["one", " two"]
    assert session.turns[0].reply.text == "one two"
    assert session.turns[0].reply.finish_reason == "cancelled"
    assert answer(session, "again")[-1].text == "next"


def test_an_answer_can_be_stopped_from_another_thread_while_it_waits():
    engine = ScriptedEngine("one two three")
    engine.pause_after = 2
    session, stop, parts = Session(engine), threading.Event(), []
    reader = threading.Thread(
        target=lambda: parts.extend(session.ask("p", cancelled=stop.is_set)), daemon=True
    )
    reader.start()
    assert engine.paused.wait(60)
    stop.set()
    reader.join(60)
    assert [part.text for part in parts] == ["one", " two", "one two"]
    assert session.turns[0].reply.finish_reason == "cancelled"


def test_a_stream_that_is_closed_early_leaves_no_turn_and_a_usable_session(folder):
    session = Session(ScriptedEngine("one two three", "next"))
    stream = session.ask("p", "p")
    assert next(stream).text == "one"
    stream.close()
    assert session.turns == []
    assert answer(session, "again")[-1].text == "next"
    assert len(session.turns) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UserError("too long: ask less")])
def test_an_error_in_the_engine_passes_and_leaves_the_session_usable(error):
    session = Session(ScriptedEngine(error, "next"))
    with pytest.raises(type(error)):
        answer(session, "hi")
    assert session.turns == []
    assert session.last_question == ("answer en hi", "hi")
    assert answer(session, "again")[-1].text == "next"


def test_the_question_is_about_the_image_that_was_current_when_it_was_asked(folder):
    session = Session(ScriptedEngine("one two"))
    session.add_image(folder / "cat.png")
    stream = session.ask("p")
    session.add_image(folder / "dog.png")
    list(stream)
    assert session.turns[0].size == (64, 48)


def test_warm_looks_at_the_current_image_as_plain_questions_will_need_it(folder):
    engine = ScriptedEngine("a cat")
    session = Session(engine)
    session.warm()
    assert engine.looks == []
    session.add_image(folder / "cat.png")
    session.warm()
    [(name, prompt, mode)] = engine.looks
    assert (name, prompt.strip(), mode) == (session.current.name, "answer en", "kv")
    assert answer(session, "what is this ?")[-1].reused_tokens > 0


def test_clear_forgets_the_turns_alone(folder):
    session = Session(ScriptedEngine("a"), Settings(template="{question}"))
    session.add_image(folder / "cat.png")
    answer(session, "hi")
    session.clear()
    assert (session.turns, session.last_question) == ([], None)
    assert session.current is session.pictures[0]
    assert session.settings.template == "{question}"


def test_save_takes_the_format_from_the_suffix_and_replaces_a_file(tmp_path):
    session = Session(ScriptedEngine("one", "two"), model_name="demo")
    answer(session, "hi")
    for form in ("md", "json", "jsonl"):
        path = tmp_path / f"chat.{form}"
        path.write_text("something old")
        session.save(path)
        assert path.read_text(encoding="utf-8") == session.transcript(form)
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "chat.json",
        "chat.jsonl",
        "chat.md",
    ]


def test_save_writes_through_a_link_and_keeps_the_files_permissions(tmp_path):
    (tmp_path / "real.md").write_text("old")
    (tmp_path / "real.md").chmod(0o600)
    (tmp_path / "link.md").symlink_to("real.md")
    session = Session(ScriptedEngine("one"))
    answer(session, "hi")
    session.save(tmp_path / "link.md")
    assert (tmp_path / "link.md").is_symlink()
    assert (tmp_path / "real.md").read_text() == session.transcript("md")
    assert (tmp_path / "real.md").stat().st_mode & 0o777 == 0o600


BAD_FILES = [
    ("chat.txt", "cannot tell the format of .*: let the name end in one of .md, .json, .jsonl"),
    ("chat", "cannot tell the format"),
    ("missing/chat.md", "cannot write .*: No such file or directory"),
    ("folder.md", "cannot write .*: Is a directory"),
    ("zero\0byte.md", "cannot write"),
    ("x" * 300 + ".md", "cannot write .*: File name too long"),
]


@pytest.mark.parametrize(("name", "message"), BAD_FILES)
def test_save_says_in_one_line_why_it_cannot(tmp_path, name, message):
    (tmp_path / "folder.md").mkdir()
    session = Session(ScriptedEngine("one"))
    answer(session, "hi")
    with pytest.raises(UserError, match=message) as caught:
        session.save(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert [each.name for each in tmp_path.iterdir()] == ["folder.md"]


def test_save_wants_something_to_save(tmp_path):
    with pytest.raises(UserError, match="nothing to save"):
        Session(ScriptedEngine()).save(tmp_path / "chat.md")
    assert list(tmp_path.iterdir()) == []


def test_a_format_that_is_not_there_is_named():
    with pytest.raises(UserError, match="there is no format yaml: choose one of md, json, jsonl"):
        Session(ScriptedEngine()).transcript("yaml")


def test_the_name_of_a_failed_image_is_not_its_whole_path(folder):
    session = Session(ScriptedEngine())
    with pytest.raises(ImageError):
        session.add_image(Path(folder) / "broken.png")
    assert session.failed == "broken.png"
