"""The picture at the top of the README: a real session, drawn as SVG.

    python -m examples.session_picture --out examples/images/session.svg
    python -m examples.session_picture --image cat.jpg --line "caption en" --out session.svg

It starts a shell in a terminal of its own (tmux, which must be installed), types `vlmchat` and then
each line, key by key, waits for each answer, and draws what the terminal shows then, what has been
scrolled out of sight included. Nothing in the picture is made up, and the same model and the same
options give the same picture again.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from examples.terminal_svg import to_svg

ROOT = Path(__file__).parents[1]
IMAGE = "examples/images/shapes.png"
LINES = ("what is this?", "what does it say?", "/detect heart ; star")
PROMPT = ">>>"
KEY = 0.02  # seconds between two keys
LOOK = 0.3  # seconds between two looks at the screen


class Terminal:
    """A tmux session with a shell in it, on a server that nobody else uses."""

    def __init__(self, columns: int, rows: int, folder: Path) -> None:
        self._server = ["tmux", "-u", "-f", os.devnull, "-L", f"session-picture-{os.getpid()}"]
        size = ["-x", str(columns), "-y", str(rows), "-c", str(folder)]
        self._tmux("new-session", "-d", *size, "/bin/sh", env=_environment())
        self.type("PS1='$ '; clear")
        self.wait_for("$", seconds=10)
        self._tmux("clear-history")

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self._tmux("kill-server")

    def _tmux(self, *command: str, env: dict[str, str] | None = None) -> str:
        done = subprocess.run(
            [*self._server, *command], env=env, check=True, capture_output=True, text=True
        )
        return done.stdout

    def type(self, line: str) -> None:
        """Press the keys of a line, then Enter."""
        for character in line:
            # A lone semicolon would end tmux's own command.
            self._tmux("send-keys", "-l", "--", "\\;" if character == ";" else character)
            time.sleep(KEY)
        self._tmux("send-keys", "Enter")

    def wait_for(self, prompt: str, seconds: float) -> None:
        """Wait until a line holds nothing but this prompt."""
        deadline = time.monotonic() + seconds
        while prompt not in (shown := self._tmux("capture-pane", "-p")).splitlines():
            if time.monotonic() > deadline:
                raise SystemExit(f"no {prompt} after {seconds:.0f} seconds; the screen:\n{shown}")
            time.sleep(LOOK)

    def settled(self) -> str:
        """Everything since the shell began, colours included, once it has stopped changing."""
        before, shown = "", self._everything()
        while shown != before:
            time.sleep(4 * LOOK)
            before, shown = shown, self._everything()
        return shown

    def _everything(self) -> str:
        return self._tmux("capture-pane", "-e", "-p", "-S", "-").rstrip("\n")


def _environment() -> dict[str, str]:
    """The caller's, for a vlmchat that draws in all colours and leaves no traces."""
    mine = {key: value for key, value in os.environ.items() if not key.startswith("VLMCHAT_")}
    for unwanted in ("NO_COLOR", "TMUX", "ENV"):
        mine.pop(unwanted, None)
    return {
        **mine,
        "COLORTERM": "truecolor",
        "LC_ALL": "C.UTF-8",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), mine.get("PATH", "")]),
        "PYTHONPATH": str(ROOT),
        "VLMCHAT_HISTORY": "",
        "VLMCHAT_TRACK": "0",
    }


def record(
    command: str, lines: Sequence[str], columns: int, rows: int, seconds: float, folder: Path = ROOT
) -> str:
    """What a terminal of that size shows when `command` was given these lines."""
    with Terminal(columns, rows, folder) as terminal:
        terminal.type(command)
        for line in lines:
            terminal.wait_for(PROMPT, seconds)
            terminal.settled()  # the image is looked at beside the prompt
            terminal.type(line)
        terminal.wait_for(PROMPT, seconds)
        return without_gap(terminal.settled())


def without_gap(shown: str) -> str:
    """The screen without the empty rows between the last prompt and the toolbar."""
    *above, toolbar = shown.split("\n")
    return "\n".join([*"\n".join(above).rstrip("\n").split("\n"), toolbar])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model-path", help="checkpoint folder or hub id (default: the demo)")
    parser.add_argument("--image", default=IMAGE, help=f"image to show (default: {IMAGE})")
    parser.add_argument("--line", action="append", help="a line to type; repeatable")
    parser.add_argument("--columns", type=int, default=80)
    parser.add_argument("--rows", type=int, default=24, help="two thirds are a picture's at most")
    parser.add_argument("--seconds", type=float, default=120, help="to wait for each answer")
    parser.add_argument("--out", type=Path, default=Path("session.svg"))
    arguments = parser.parse_args()
    if shutil.which("tmux") is None:
        parser.error("tmux is not installed: it is the terminal of which a picture is taken")

    words = ["vlmchat", "--image", arguments.image]
    if arguments.model_path:
        words[1:1] = ["--model-path", arguments.model_path]
    shown = record(
        shlex.join(words),
        arguments.line or LINES,
        arguments.columns,
        arguments.rows,
        arguments.seconds,
    )
    arguments.out.write_text(to_svg(shown, arguments.columns, "a chat with vlmchat"), "utf-8")
    print(f"{arguments.out}: {len(shown.splitlines())} lines, {arguments.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
