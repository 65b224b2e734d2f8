"""Which kind of pictures this terminal can draw: what its environment says, else what it answers.

Asking has its dangers, and all of them are met here: an answer arrives as if it were typed, so the
typed text around it is handed back; a terminal that does not answer costs a moment and not the
program; and nothing is ever asked of a pipe.
"""

from __future__ import annotations

import os
import re
import select
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

Kind = Literal["blocks", "kitty", "iterm2", "sixel"]
WAIT = 0.5  # seconds; every usual terminal answers within a few milliseconds, over ssh within 0.3

# A one-pixel picture that is to be tried and not shown, then "what are you?", which all answer.
QUESTION = "\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\\x1b[c"
_ATTRIBUTES = re.compile(r"\x1b\[\?([\d;]*)c")
_KITTY = re.compile(r"\x1b_G([^\x1b]*)\x1b\\")
_UNFINISHED = re.compile(r"\x1b(\[\?[\d;]*|_G[^\x1b]*\x1b?)\Z")

# Variable, what it begins with, and what such a terminal draws. The first that fits counts: a
# multiplexer stands between us and whatever terminal its environment still tells of.
EVIDENCE: tuple[tuple[str, str, Kind], ...] = (
    ("TMUX", "", "blocks"),
    ("ZELLIJ", "", "blocks"),
    ("TERM", "tmux", "blocks"),
    ("TERM", "screen", "blocks"),
    ("KITTY_WINDOW_ID", "", "kitty"),
    ("TERM", "xterm-kitty", "kitty"),
    ("TERM", "xterm-ghostty", "kitty"),
    ("TERM_PROGRAM", "ghostty", "kitty"),
    ("TERM_PROGRAM", "iTerm.app", "iterm2"),
    ("TERM_PROGRAM", "WezTerm", "iterm2"),
    ("TERM_PROGRAM", "mintty", "iterm2"),
    ("LC_TERMINAL", "iTerm2", "iterm2"),
    ("TERM", "foot", "sixel"),
    ("TERM", "mlterm", "sixel"),
    ("TERM_PROGRAM", "Apple_Terminal", "blocks"),  # it prints the question
    ("TERM", "linux", "blocks"),
)


@dataclass(frozen=True)
class Answer:
    """What a terminal said of itself, and what the person typed meanwhile."""

    kind: Kind
    typed: str = ""


def by_environment(environment: Mapping[str, str]) -> Kind | None:
    """What the variables of the environment say; None where they say nothing sure."""
    for variable, start, kind in EVIDENCE:
        if variable in environment and environment[variable].startswith(start):
            return kind
    return None


def same_terminal(reads: int, writes: int) -> bool:
    """Whether two file descriptors are one terminal, and this program is the one it talks to."""
    try:
        return os.ttyname(reads) == os.ttyname(writes) and os.tcgetpgrp(reads) == os.getpgrp()
    except OSError:
        return False


def ask(reads: int, writes: int, wait: float = WAIT) -> Answer:
    """Ask the terminal behind two file descriptors what it draws; half blocks if it says nothing.

    Whatever is neither answer nor a piece of one comes back as typed text.
    """
    if sys.platform == "win32" or not same_terminal(reads, writes):
        return Answer("blocks")
    with _unbuffered(reads):
        os.write(writes, QUESTION.encode("ascii"))
        said = _read_answer(reads, wait)
    return understand(said)


def understand(said: str) -> Answer:
    """Take the answers out of what came from the terminal."""
    attributes = _ATTRIBUTES.search(said)
    kitty = _KITTY.search(said)
    typed = _UNFINISHED.sub("", _ATTRIBUTES.sub("", _KITTY.sub("", said)))
    if kitty is not None and kitty[1].endswith(";OK"):
        return Answer("kitty", typed)
    if attributes is not None and "4" in attributes[1].split(";"):  # 4 is DEC's number for sixels
        return Answer("sixel", typed)
    return Answer("blocks", typed)


def _read_answer(reads: int, wait: float) -> str:
    """All that comes until the terminal has said what it is, or until `wait` seconds are over."""
    said = b""
    deadline = time.monotonic() + wait
    while not _ATTRIBUTES.search(said.decode("utf-8", "replace")):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([reads], [], [], left)[0]:
            break
        more = os.read(reads, 4096)
        if not more:  # the terminal has gone
            break
        said += more
    return said.decode("utf-8", "replace")


@contextmanager
def _unbuffered(terminal: int) -> Iterator[None]:
    """Read key by key and without echo, as long as the block runs; Ctrl-C keeps its meaning.

    TCSANOW, because the other ways of changing the mode throw typed characters away.
    """
    import termios

    before = termios.tcgetattr(terminal)
    mode = termios.tcgetattr(terminal)
    mode[3] &= ~(termios.ICANON | termios.ECHO)
    mode[6] = [*mode[6]]
    mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
    termios.tcsetattr(terminal, termios.TCSANOW, mode)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSANOW, before)
