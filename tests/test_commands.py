"""Lines and what they come to: tables of cases, and whole talks with a scripted engine."""

import shutil
import subprocess
import sys

import pytest
from PIL import Image

from tests.scripted import ScriptedEngine
from vlmchat.errors import UserError
from vlmchat.images import ImageError
from vlmchat.session import Session
from vlmchat.terminal.commands import (
    COMMANDS,
    Ask,
    CommandError,
    Quit,
    Say,
    find,
    only_asks,
    run,
)

ALL_NAMES = [name for command in COMMANDS for name in command.names]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with two images, also the working directory."""
    Image.new("RGB", (64, 48), "red").save(tmp_path / "cat.png")
    Image.new("RGB", (30, 90), "blue").save(tmp_path / "my dog.png")
    (tmp_path / "broken.png").write_bytes(b"no image at all")
    (tmp_path / "pictures").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def session(folder):
    return Session(ScriptedEngine(), model_name="demo")


def answer(session, line):
    """Run a line that asks, and the answer with it."""
    outcome = run(line, session)
    assert isinstance(outcome, Ask)
    return list(session.ask(outcome.prompt, outcome.line))[-1]


def say(session, line):
    """Run a line that says something."""
    outcome = run(line, session)
    assert isinstance(outcome, Say)
    return outcome.text


ASKING = [
    ("what is this ?", "answer en what is this ?", "what is this ?"),
    ("  padded  ", "answer en padded", "padded"),
    ("detect cat ; dog", "detect cat ; dog", "detect cat ; dog"),
    ("quit", "answer en quit", "quit"),
    ("/ask what is this ?", "answer en what is this ?", "what is this ?"),
    ("/ask /etc/hosts is what ?", "answer en /etc/hosts is what ?", "/etc/hosts is what ?"),
    ("/ask cat.png", "answer en cat.png", "cat.png"),
    ("/ask /help", "answer en /help", "/help"),
    ("/ask caption de", "caption de", "caption de"),
    ("/caption", "caption en", "/caption"),
    ("/caption de", "caption de", "/caption de"),
    ("/caption DE", "caption de", "/caption DE"),
    ("/ocr", "ocr", "/ocr"),
    ("/OCR  ", "ocr", "/ocr"),
    ("  /ocr", "ocr", "/ocr"),
    ("/detect cat", "detect cat", "/detect cat"),
    ("/detect cat;dog", "detect cat ; dog", "/detect cat;dog"),
    ("/detect ; red  car ;; dog ;", "detect red car ; dog", "/detect ; red  car ;; dog ;"),
    ("/segment cat ; dog", "segment cat ; dog", "/segment cat ; dog"),
    ("/raw cap fr", "cap fr", "/raw cap fr"),
    ("/raw  two  spaces \n", " two  spaces ", "/raw  two  spaces "),
]


@pytest.mark.parametrize(("line", "prompt", "typed"), ASKING)
def test_lines_that_ask(session, line, prompt, typed):
    assert run(line, session) == Ask(prompt, typed, None)
    assert session.engine.calls == []


@pytest.mark.parametrize("line", ["", "  ", "\n", "\t\r\n"])
def test_blank_lines_come_to_nothing(session, line):
    assert run(line, session) is None


@pytest.mark.parametrize("line", ["/quit", "/exit", "/bye", "/QUIT", "/quit "])
def test_leaving(session, line):
    assert run(line, session) == Quit()


REFUSED = [
    ("/detect", "/detect needs something after it: type /detect A ; B"),
    ("/detect ; ;", "/detect needs something to look for: for example /detect cat ; dog"),
    ("/segment", "/segment needs something after it: type /segment A ; B"),
    ("/ask ", "/ask needs something after it: type /ask TEXT"),
    ("/raw", "/raw needs something after it: type /raw TEXT"),
    ("/save", "/save needs something after it: type /save FILE"),
    ("/ocr please", "/ocr takes nothing after it: type /ocr alone"),
    ("/caption a cat", "a cat is not a language code: try /caption en or /caption de"),
    ("/retry", "there is nothing to ask again: ask something first"),
    ("/set colour red", "there is no setting colour: /set shows them all"),
    ("/set top_q 1", "there is no setting top_q: did you mean top-p? /set shows them all"),
    ("/set max-tokens many", "max-tokens cannot be many: it must be a whole number from 1 up"),
    ("/set temperature=", "temperature cannot be empty: it must be a number from 0 (greedy) up"),
    ("/save chat.md", "there is nothing to save: ask something first"),
    ("/image 3", "there is no image 3: load one first with /image PATH"),
    ("/help detekt", "there is no command detekt: did you mean /detect? /help lists them all"),
    (
        "/imgae cat.png",
        "there is no command /imgae: did you mean /image? /help lists them all,"
        " and /ask /imgae cat.png sends it as text",
    ),
    (
        "/xyzzy",
        "there is no command /xyzzy: /help lists them all, and /ask /xyzzy sends it as text",
    ),
    ("/", "there is no command /: /help lists them all, and /ask / sends it as text"),
    (
        "nope.png what is it ?",
        "there is no image file nope.png: check the path,"
        " or send it as text with /ask nope.png what is it ?",
    ),
]


@pytest.mark.parametrize(("line", "message"), REFUSED)
def test_lines_that_are_refused_in_one_line(session, line, message):
    with pytest.raises(UserError) as caught:
        run(line, session)
    assert str(caught.value) == message
    assert session.engine.calls == []


@pytest.mark.parametrize("name", [name for name in ALL_NAMES if name != "/?"])
def test_a_name_with_a_wrong_letter_is_recognised(session, name):
    with pytest.raises(CommandError, match=f"did you mean {name}"):
        run(f"{name}x", session)


DOG = [
    "my dog.png",
    "'my dog.png'",
    '"my dog.png"',
    "my\\ dog.png",
    "{here}/my dog.png",
    "'{here}/my dog.png' ",
    "file://{here}/my%20dog.png",
]


@pytest.mark.parametrize("form", DOG)
@pytest.mark.parametrize("command", ["", "/image ", "/load "])
def test_the_path_of_an_image_loads_it_and_asks_nothing(folder, session, command, form):
    say(session, "cat.png")
    text = say(session, command + form.format(here=folder))
    assert text.startswith("[2] ")
    assert text.endswith("my dog.png 30x90")
    assert session.current is session.pictures[1]
    assert session.engine.calls == []


def test_a_path_followed_by_text_loads_and_asks(folder, session):
    outcome = run(f"{folder}/cat.png what is this ?", session)
    assert (outcome.prompt, outcome.line) == ("answer en what is this ?", "what is this ?")
    assert outcome.notice.startswith("[1] ")
    assert outcome.notice.endswith("cat.png 64x48")


def test_what_follows_a_path_may_be_a_command_or_another_path(session):
    outcome = run("cat.png /detect dog", session)
    assert (outcome.prompt, outcome.notice) == ("detect dog", "[1] cat.png 64x48")
    outcome = run("cat.png 'my dog.png' why ?", session)
    assert outcome.prompt == "answer en why ?"
    assert outcome.notice == "[1] cat.png 64x48\n[2] my dog.png 30x90"
    assert say(session, "'my dog.png' cat.png") == "[2] my dog.png 30x90\n[1] cat.png 64x48"
    assert run("cat.png /quit", session) == Quit()


def test_a_path_in_the_home_folder(folder, session, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    assert say(session, "~/cat.png").endswith("cat.png 64x48")
    assert say(session, "/image ~/cat.png").endswith("cat.png 64x48")


MISSING = [
    "/image nope.png",
    "/load nope.png",
    "/image 'my nope.png'",
    "/image broken.png",
    "/image pictures",
    "/image 9",
    "/image ~nobody-of-that-name/cat.png",
    "broken.png",
    "nope.png",
    "'my nope.png'",
    "nope.JPEG what is this ?",
    "/nowhere/at/all.png",
    "/nowhere/at/all",
    "~/nowhere",
    "./nowhere",
    "file:///nowhere.png",
]


@pytest.mark.parametrize("line", MISSING)
def test_a_line_whose_image_is_not_there_never_asks_about_the_one_before(session, line):
    say(session, "cat.png")
    with pytest.raises(UserError) as caught:
        run(line, session)
    assert "\n" not in str(caught.value)
    assert session.current is None
    with pytest.raises(UserError, match="is not loaded"):
        answer(session, "what is this ?")
    assert session.engine.calls == []
    assert say(session, "/image 1") == "[1] cat.png 64x48"
    session.engine.enqueue("a cat")
    assert answer(session, "what is this ?").text == "a cat"


def test_an_image_error_stays_an_image_error(session):
    with pytest.raises(ImageError, match=r"broken\.png"):
        run("/image broken.png", session)


OTHER_FILES = [
    ("photo.heic", "photo.heic: a HEIC image: convert it to JPEG or PNG"),
    ("'photo.heic' what is it ?", "photo.heic: a HEIC image: convert it to JPEG or PNG"),
    ("./pictures", "pictures: a folder: give the path of an image in it"),
    ("{here}/pictures/", "{here}/pictures: a folder: give the path of an image in it"),
]


@pytest.mark.parametrize(("line", "message"), OTHER_FILES)
def test_a_path_of_something_else_says_what_is_wrong_with_it(folder, session, line, message):
    (folder / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(12))
    with pytest.raises(ImageError) as caught:
        run(line.format(here=folder), session)
    assert str(caught.value) == message.format(here=folder)


def test_an_image_without_a_suffix_loads_where_its_path_is_no_words(folder, session):
    (folder / "cat.png").rename("photo")
    assert run("photo", session) == Ask("answer en photo", "photo")
    assert say(session, "./photo") == "[1] photo 64x48"
    assert run("./photo why ?", session).prompt == "answer en why ?"


def test_a_known_command_is_never_looked_up_as_a_file(session, monkeypatch):
    monkeypatch.setattr("vlmchat.images.split_path", pytest.fail)
    assert run("/ocr", session) == Ask("ocr", "/ocr")
    assert run("/raw cat.png", session) == Ask("cat.png", "/raw cat.png")


TALK = [
    ("/image", "image: none"),
    ("/images", "no images yet: /image PATH loads one"),
    ("cat.png", "[1] cat.png 64x48"),
    ("/load my dog.png", "[2] my dog.png 30x90"),
    ("/images", "  [1] cat.png 64x48\n* [2] my dog.png 30x90"),
    ("/image 1", "[1] cat.png 64x48"),
    ("/images", "* [1] cat.png 64x48\n  [2] my dog.png 30x90"),
    ("/image", "image: [1] cat.png 64x48"),
    ("/image none", "no image now; /image with a number goes back to one"),
    ("/image", "image: none"),
    ("/images", "  [1] cat.png 64x48\n  [2] my dog.png 30x90"),
    ("/image 2", "[2] my dog.png 30x90"),
]


def test_a_talk_about_images(session):
    assert [(line, say(session, line)) for line, _ in TALK] == TALK


def test_a_copy_under_another_name_is_listed_and_chosen_apart(session, folder):
    shutil.copyfile(folder / "cat.png", folder / "copy.png")
    assert say(session, "/image cat.png") == "[1] cat.png 64x48"
    assert say(session, "/image copy.png") == "[2] copy.png 64x48"
    assert say(session, "/images") == "  [1] cat.png 64x48\n* [2] copy.png 64x48"
    assert say(session, "/image") == "image: [2] copy.png 64x48"
    assert say(session, "/image cat.png") == "[1] cat.png 64x48"


def test_image_alone_names_one_that_failed(session):
    with pytest.raises(ImageError):
        run("/image broken.png", session)
    assert say(session, "/image") == "image: none: broken.png could not be loaded"


SET_TALK = [
    ("/set temperature", "temperature = 0.0"),
    ("/set seed 7", "seed = 7 (it counts once temperature is above 0)"),
    ("/set temperature 0.7", "temperature = 0.7"),
    ("/set temperature=0.5", "temperature = 0.5"),
    ("/set Max_Tokens = 12", "max-tokens = 12"),
    ("/set top-k 5", "top-k = 5"),
    ("/set seed random", "seed = random"),
    ("/set prefix-cache exact", "prefix-cache = exact"),
    ("/set template answer de {question}", "template = answer de {question}"),
    (
        "/set",
        "temperature   0.5                   0 takes the likeliest token, more is freer\n"
        "top-p         1.0                   draw from the likeliest tokens of this share;"
        " 1 is off\n"
        "top-k         5                     draw from this many likeliest tokens; 0 is off\n"
        "max-tokens    12                    an answer ends after this many tokens\n"
        "seed          random                the same number draws the same answer again\n"
        "prefix-cache  exact                 kv keeps the work on the image, exact redoes it\n"
        "template      answer de {question}  what goes around a plain question\n"
        "track         off                   answers are recorded with Comet",
    ),
]


def test_a_talk_about_settings(session):
    assert [(line, say(session, line)) for line, _ in SET_TALK] == SET_TALK
    assert run("why ?", session).prompt == "answer de why ?"


def test_a_refused_value_changes_nothing(session):
    before = session.settings
    with pytest.raises(UserError):
        run("/set top-p 7", session)
    assert session.settings is before


def test_retry_asks_the_last_question_about_the_image_of_now(session):
    session.engine.enqueue("a cat", "a dog", "again")
    say(session, "cat.png")
    assert answer(session, "/detect cat").text == "a cat"
    say(session, "my dog.png")
    assert run("/retry", session) == Ask("detect cat", "/detect cat")
    assert answer(session, "/retry").text == "a dog"
    assert [turn.size for turn in session.turns] == [(64, 48), (30, 90)]


def test_retry_also_after_a_question_that_could_not_be_asked(session):
    with pytest.raises(ImageError):
        run("/image broken.png", session)
    with pytest.raises(UserError):
        answer(session, "what is this ?")
    say(session, "cat.png")
    assert run("/retry", session) == Ask("answer en what is this ?", "what is this ?")


SHOW = """\
model         demo
parameters    1,234,567
device        cpu
dtype         float32
quantize      none
weights       4.9 MB
image         [1] cat.png 64x48
prefix-cache  kv
kept          cat.png (answer): 18 tokens, 4.1 KB
              cat.png (detect): 18 tokens, 4.1 KB"""

STATS = """\
image        0.250 s
first token  0.500 s
total        1.500 s
speed        4.0 tokens/s
answer       3 tokens, finished: stop
prefix       kv: 18 tokens reused, 4 computed"""


def test_show_and_stats(session):
    assert say(session, "/stats") == "no answer yet: ask something first"
    assert say(session, "/show").endswith(
        "image         none\nprefix-cache  kv\nkept          nothing"
    )
    session.engine.enqueue("two words", "none", "two words")
    say(session, "cat.png")
    for line in ("what is this ?", "/detect dog", "detect cat"):
        answer(session, line)
    assert say(session, "/show") == SHOW
    assert say(session, "/stats") == STATS


def test_show_tells_what_is_odd_about_the_model(folder):
    session = Session(ScriptedEngine(), notices=["embedding rows: the file is right"])
    text = say(session, "/show")
    assert text.startswith("model         (not named)\n")
    assert text.endswith("\nnote          embedding rows: the file is right")


def test_saving_and_forgetting(folder, session):
    session.engine.enqueue("a cat", "two")
    answer(session, "what is this ?")
    assert say(session, "/save chat.md") == "saved 1 answer to chat.md"
    answer(session, "how many ?")
    assert say(session, "/save 'my chat.jsonl'") == "saved 2 answers to my chat.jsonl"
    assert say(session, "/save chat.MD") == "saved 2 answers to chat.MD"
    assert (folder / "my chat.jsonl").read_text() == session.transcript("jsonl")
    say(session, "cat.png")
    assert say(session, "/clear") == "the conversation is forgotten; images and settings stay"
    assert (session.turns, len(session.pictures)) == ([], 1)
    with pytest.raises(CommandError):
        run("/retry", session)


HELP = """\
/image [PATH | NUMBER | none]  load an image, or go back to one
/images                        list the loaded images
/paste                         load the image that was copied last
/ask TEXT                      ask, also what begins with "/" or a file name
/caption [LANG]                describe the image in a sentence
/ocr                           read the text in the image
/detect A ; B                  find things: a box for each
/segment A ; B                 find things: a box and an outline for each
/raw TEXT                      send TEXT with nothing around it
/look [WORD] [layer N]         where it looked while it answered
/why                           how sure it was of each token
/retry                         ask the last question again
/set [NAME VALUE]              show or change settings
/show                          model, device, memory, image and cache
/stats                         timing of the last answer
/save FILE                     save the conversation, or the picture
/clear                         forget the conversation
/help [COMMAND]                this list, or more about one command
/quit                          leave
Any other line is a question about the image. The path of an image loads it.
Ctrl-C stops an answer, Ctrl-D leaves. /help COMMAND gives an example."""


@pytest.mark.parametrize("line", ["/help", "/?", "/HELP"])
def test_help_fits_a_screen(session, line):
    text = say(session, line)
    assert text == HELP
    assert len(text.splitlines()) <= 22
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("name", ALL_NAMES)
def test_each_command_explains_itself_with_an_example(session, name):
    text = say(session, f"/help {name}")
    assert text == say(session, f"/? {name.removeprefix('/')}")
    assert text.startswith(find(name).usage)
    assert f"\nExample: {find(name).names[0]}" in text
    assert max(map(len, text.splitlines())) <= 80


def test_names_are_used_once():
    assert len(ALL_NAMES) == len(set(ALL_NAMES))
    assert [name for name in ALL_NAMES if name != name.lower() or name[0] != "/"] == []


def test_completions_of_arguments_name_what_the_line_editor_knows():
    kinds = {command.names[0]: command.completes for command in COMMANDS if command.completes}
    assert kinds == {"/image": "image", "/set": "setting", "/save": "file", "/help": "command"}


def test_importing_the_commands_imports_nothing_heavy():
    code = (
        "import sys, vlmchat.terminal.commands, vlmchat.session\n"
        "heavy = {'torch', 'transformers', 'PIL', 'numpy', 'prompt_toolkit', 'rich', 'comet_ml'}\n"
        "print(*sorted(heavy & set(sys.modules)), end='')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


ONLY_ASKING = ["what is it", "caption en", "/ask cat.png", "/DETECT cat", "/raw x", "/ocr"]
MORE_THAN_ASKING = [
    *("", "  ", "/", "/nope", "/image cat.png", "/set", "/retry", "/quit", "/tmp/x.png"),
    *("cat.png", "cat.png what is it", "'my dog.png' what", "no.png what"),
]


@pytest.mark.parametrize("line", [*ONLY_ASKING, *MORE_THAN_ASKING])
def test_lines_that_ask_and_do_nothing_else(folder, line):
    assert only_asks(line) == (line in ONLY_ASKING)


@pytest.mark.parametrize("line", ONLY_ASKING)
def test_to_run_a_line_that_only_asks_changes_nothing(session, line):
    before = dict(vars(session))
    assert isinstance(run(line, session), Ask)
    assert vars(session) == before
