"""The command line: flags, environment, exit codes, and how little `--help` imports."""

import io
import json
import os
import signal
import subprocess
import sys

import pytest
from PIL import Image

import vlmchat
from tests.scripted import ScriptedEngine
from vlmchat.cli import main
from vlmchat.errors import UserError
from vlmchat.sampling import Sampling
from vlmchat.session import Session, Settings
from vlmchat.terminal import repl

ROOT = os.path.dirname(os.path.dirname(__file__))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("VLMCHAT_", "NO_COLOR"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("VLMCHAT_TRACK", "0")
    Image.new("RGB", (64, 48), "red").save(tmp_path / "cat.png")
    Image.new("RGB", (30, 90), "blue").save(tmp_path / "my dog.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Loader:
    """Stands in for `vlmchat.load` and remembers what it was asked for."""

    def __init__(self):
        self.engine = ScriptedEngine()
        self.given = None
        self.notices = ()

    def __call__(self, model_path, **given):
        self.given = {"model_path": model_path, **given}
        settings = Settings(sampling=given["sampling"], prefix_cache=given["prefix_cache"])
        return Session(self.engine, settings, model_name="demo", notices=self.notices)

    def prompts(self):
        return [(call.image, call.prompt) for call in self.engine.calls]


@pytest.fixture
def load(monkeypatch):
    loader = Loader()
    monkeypatch.setitem(vars(vlmchat), "load", loader)
    return loader


def pipe(monkeypatch, data):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


def test_without_flags_everything_has_the_promised_default(load, monkeypatch):
    pipe(monkeypatch, b"")
    assert main([]) == 0
    assert load.given == {
        "model_path": None,
        "device": "auto",
        "dtype": "auto",
        "quantize": "none",
        "prefix_cache": "kv",
        "sampling": Sampling(temperature=0.0, top_k=0, top_p=1.0, max_tokens=256, seed=None),
        "mask_decoder": None,
        "compile": False,
        "progress": None,
    }


def test_flags_reach_the_model(load, monkeypatch):
    pipe(monkeypatch, b"")
    flags = "--model-path m --device cuda:1 --dtype bfloat16 --prefix-cache exact --max-tokens 7"
    more = "--quantize int8 --temperature 0.5 --top-k 3 --top-p 0.9 --seed 0 --mask-decoder m.npz"
    assert main([*flags.split(), *more.split(), "--compile"]) == 0
    assert load.given == {
        "model_path": "m",
        "device": "cuda:1",
        "dtype": "bfloat16",
        "quantize": "int8",
        "prefix_cache": "exact",
        "sampling": Sampling(temperature=0.5, top_k=3, top_p=0.9, max_tokens=7, seed=0),
        "mask_decoder": "m.npz",
        "compile": True,
        "progress": None,
    }


def test_every_flag_has_an_environment_variable(load, monkeypatch, capsys):
    environment = {
        "MODEL_PATH": "m",
        "IMAGE": f"cat.png{os.pathsep}my dog.png",
        "ASK": "what is it\ncaption en",
        "DEVICE": "cpu",
        "DTYPE": "float16",
        "MAX_TOKENS": "1",
        "TEMPERATURE": "2",
        "TOP_P": "0.5",
        "TOP_K": "4",
        "SEED": "9",
        "PREFIX_CACHE": "exact",
        "GRAPHICS": "sixel",
        "MASK_DECODER": "m.npz",
        "JSON": "1",
        "NO_COLOR": "1",
        "QUIET": "1",
        "VERBOSE": "0",
    }
    for name, value in environment.items():
        monkeypatch.setenv(f"VLMCHAT_{name}", value)
    monkeypatch.setenv("VLMCHAT_VERSION", "3.2")
    load.engine.enqueue("a b", "c d", "e f", "g h")
    assert main([]) == 0
    out, err = capsys.readouterr()
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["a", "c", "e", "g"]
    assert err == ""
    assert load.prompts() == [
        ("cat.png", "answer en what is it"),
        ("cat.png", "caption en"),
        ("my dog.png", "answer en what is it"),
        ("my dog.png", "caption en"),
    ]
    assert load.given["sampling"] == Sampling(
        temperature=2.0, top_k=4, top_p=0.5, max_tokens=1, seed=9
    )


def test_ask_answers_and_ends_without_reading_stdin(load, capsys):
    load.engine.enqueue("a cat")
    assert main(["--image", "cat.png", "--ask", "what is it"]) == 0
    assert capsys.readouterr() == ("a cat\n", "")


def test_piped_lines_are_answered(load, monkeypatch, capsys):
    pipe(monkeypatch, b"what is it\n\ncaf\xe9 ?\r\n/set max-tokens 3\nlast line")
    load.engine.enqueue("a", "b", "c")
    assert main(["--image", "my dog.png", "--image", "cat.png"]) == 0
    assert capsys.readouterr() == ("a\nb\nc\n", "max-tokens = 3\n")
    assert load.prompts() == [
        ("my dog.png", "answer en what is it"),
        ("my dog.png", "answer en caf\ufffd ?"),
        ("my dog.png", "answer en last line"),
    ]


@pytest.mark.parametrize("lines", [["--ask", "one", "--ask", "two"], []])
def test_questions_are_answered_in_batches(load, monkeypatch, capsys, lines):
    pipe(monkeypatch, b"one\ntwo\n")
    load.engine.enqueue("a", "b")
    assert main(["--image", "cat.png", "--batch-size", "4", *lines]) == 0
    assert capsys.readouterr() == ("a\nb\n", "")
    assert load.engine.batches == [["answer en one", "answer en two"]]


def test_an_image_can_come_from_stdin(load, monkeypatch, capsys, folder):
    pipe(monkeypatch, (folder / "cat.png").read_bytes())
    load.engine.enqueue("a cat")
    assert main(["--image", "-", "--ask", "what is it", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["image"] == "stdin"


def test_a_terminal_on_both_ends_gets_the_chat(load, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    seen = []
    monkeypatch.setattr(repl, "run", lambda session, screen: seen.append(session) or 130)
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert main(["--image", "cat.png", "--image", "my dog.png"]) == 130
    assert [session.current.name for session in seen] == ["cat.png"]


def test_notices_of_the_model_are_shown(load, capsys):
    load.notices = ("the file has 7 rows",)
    load.engine.enqueue("a", "b")
    assert main(["--image", "cat.png", "--ask", "what"]) == 0
    assert capsys.readouterr().err == "the file has 7 rows\n"
    assert main(["--image", "cat.png", "--ask", "what", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_a_line_that_fails_makes_exit_code_1(load, monkeypatch, capsys):
    pipe(monkeypatch, b"/nope\nwhat\n")
    load.engine.enqueue("still answered")
    assert main([]) == 1
    assert capsys.readouterr().out == "still answered\n"


WRONG = [
    (["--nope"], "no such option"),
    (["cat.png"], "got unexpected extra argument"),
    (["--image"], "requires an argument"),
    (["--max-tokens", "0"], "--max-tokens"),
    (["--max-tokens", "many"], "--max-tokens"),
    (["--batch-size", "0"], "--batch-size"),
    (["--temperature", "-1"], "--temperature"),
    (["--temperature", "nan"], "--temperature"),
    (["--temperature", "inf"], "--temperature"),
    (["--top-p", "0"], "--top-p"),
    (["--top-p", "1.5"], "--top-p"),
    (["--top-k", "-1"], "--top-k"),
    (["--seed", "-1"], "--seed"),
    (["--device", "gpu"], "cuda:N"),
    (["--device", "cuda:"], "cuda:N"),
    (["--dtype", "int8"], "--dtype"),
    (["--prefix-cache", "off"], "--prefix-cache"),
    (["--graphics", "ascii"], "--graphics"),
    (["--image", "-"], "--ask"),
    (["--image", "-", "--image", "-", "--ask", "x"], "only once"),
    (["\u202egnp.exe"], "\ufffdgnp.exe"),
]


@pytest.mark.parametrize(("argv", "named"), WRONG)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(load, capsys, argv, named):
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("vlmchat: ")
    assert err.endswith(": see vlmchat --help\n")
    assert err.count("\n") == 1
    assert named in err
    assert load.given is None


def test_what_cannot_be_loaded_is_one_line_and_exit_code_1(load, monkeypatch, capsys):
    assert main(["--image", "missing.png", "--ask", "what"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("vlmchat: ")
    assert err.count("\n") == 1
    assert load.prompts() == []

    def broken(*_, **__):
        raise UserError("model: damaged: download it again")

    monkeypatch.setitem(vars(vlmchat), "load", broken)
    assert main(["--ask", "what"]) == 1
    assert capsys.readouterr().err == "vlmchat: model: damaged: download it again\n"
    assert main(["--ask", "what", "--verbose"]) == 1
    assert capsys.readouterr().err.startswith("Traceback (most recent call last):\n")


def test_an_interrupt_is_130(load, capsys):
    load.engine.enqueue(KeyboardInterrupt())
    assert main(["--image", "cat.png", "--ask", "what"]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_bug_while_loading_is_not_hidden(monkeypatch):
    monkeypatch.setitem(vars(vlmchat), "load", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["--ask", "what"])


@pytest.mark.parametrize("flag", ["-h", "--help", "--version"])
def test_help_and_version_answer_at_once(load, capsys, flag):
    assert main([flag]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("vlmchat " if flag == "--version" else "Usage: vlmchat [OPTIONS]")
    assert err == ""
    assert load.given is None


def run(command, **how):
    """Run a shell command, where `chat` is the program with a scripted engine."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "")]),
    }
    command = f'chat() {{ "{sys.executable}" -m tests.chat "$@"; }}; {command}'
    return subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, **how
    )


def test_help_imports_nothing_heavy():
    code = """
import sys
from vlmchat.cli import main
assert main(["--help"]) == 0
heavy = "torch transformers comet_ml prompt_toolkit rich PIL numpy tokenizers".split()
sys.exit([name for name in heavy if name in sys.modules])
"""
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert child.stderr == "[]\n"


def test_a_chat_begins_before_torch_is_imported():
    code = """
import io, sys
from vlmchat.cli import main
from vlmchat.terminal import repl
class Terminal(io.StringIO):
    isatty = lambda self: True
def run(session, screen):
    repl.greet(session, screen)
    repl.open_editor(screen, lambda: "")
    repl.reports.status(session)
    session.prompt_for("what is it")
    return 7
repl.run, sys.stdin, sys.stdout = run, Terminal(), Terminal()
assert main(["--image", "cat.png", "--model-path", "."]) == 7
sys.exit([name for name in ("torch", "transformers", "comet_ml") if name in sys.modules])
"""
    open("config.json", "w").close()
    open("model.safetensors", "w").close()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([ROOT, *sys.path])}
    child = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert child.stderr.endswith("[]\n")


def test_the_module_runs_as_a_program():
    child = subprocess.run(
        [sys.executable, "-m", "vlmchat", "--nope"], cwd=ROOT, capture_output=True, text=True
    )
    assert (child.returncode, child.stdout) == (2, "")
    assert child.stderr.startswith("vlmchat: no such option")


def test_a_broken_pipe_ends_quietly():
    ran = run("yes what | chat --quiet | head -n 1; echo ${PIPESTATUS[1]}")
    assert (ran.stdout, ran.stderr) == ("you asked: answer en what !\n0\n", "")


def test_a_slow_pipe_is_not_waited_for():
    command = (
        "(echo one; read -r _ <&3; echo two) | chat --quiet --batch-size 8 "
        "| { read -r line; echo $line; echo go >&3; cat; }"
    )
    ran = run(f"mkfifo pipe; exec 3<>pipe; {command}")
    assert ran.stdout == "you asked: answer en one !\nyou asked: answer en two !\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_one_line():
    ran = run("chat --quiet --ask what > /dev/full")
    assert ran.returncode == 1
    assert ran.stderr == "vlmchat: cannot write the output: No space left on device\n"


def test_streams_that_are_closed_from_the_start():
    ran = run("chat --quiet <&-; chat --quiet --ask what >&-; echo done")
    assert (ran.stdout, ran.stderr) == ("done\n", "")


def test_ctrl_c_ends_a_pipe_with_130():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([ROOT, *sys.path])}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.chat", "--quiet", "--ask", "wait for it"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout.read(10) == b"you asked:"
        child.send_signal(signal.SIGINT)
        out, err = child.communicate()
    assert (child.returncode, out, err) == (130, b"\n", b"")
