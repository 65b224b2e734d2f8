"""The line that says something is going on: drawn over itself, gone when it is over."""

from __future__ import annotations

import os
import threading
import time
from typing import TextIO

DELAY = 0.5  # seconds; what is over sooner shows nothing
FRAME = 0.1  # seconds between two looks of the line
SPINNER = "|/-\\"
BAR = 24  # characters at most
SHORTEST_BAR = 8  # below, there is none
USUAL_WIDTH = 80  # columns, where the terminal does not tell
CLEAR = "\r\x1b[2K"  # to the start of the line, and empty it


class Estimate:
    """How long something will still take, judged by how far it came since it was first seen."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None

    def left(self, share: float, now: float) -> float | None:
        """Seconds from `now` until the share is 1; None while it is too soon to say, and at 1."""
        if self._first is None or share < self._first[0]:  # another piece of work has begun
            self._first = (share, now)
        first_share, then = self._first
        if share >= 1 or share - first_share < 0.02 or now - then < DELAY:
            return None
        return (now - then) * (1 - share) / (share - first_share)


class Waiting:
    """A context manager that shows `text` on a terminal for as long as its block runs.

    A thread draws: a wheel and the seconds so far, and a bar with an estimate once it has been told
    how far the work is. Both may be told from any thread.
    """

    def __init__(self, stream: TextIO, text: str) -> None:
        self._stream = stream
        self._text = text
        self._started = time.monotonic()
        self._share, self._size = 0.0, ""
        self._estimate = Estimate()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._draw_until_over, daemon=True)

    def __enter__(self) -> Waiting:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def reached(self, share: float) -> None:
        """Note how much of the work is done, 0 to 1; it never goes back."""
        self._share = max(self._share, share)

    def progress(self, done: int, total: int) -> None:
        """Note that `done` of `total` bytes are done; a second piece of work begins anew."""
        self._share, self._size = done / max(total, 1), _size(done, total)

    def _draw_until_over(self) -> None:
        pause = DELAY
        while not self._over.wait(pause):
            pause = FRAME
            now = time.monotonic()
            seconds = now - self._started
            if self._share:
                self._bar(self._share, self._size, self._estimate.left(self._share, now))
            else:
                wheel = SPINNER[int(seconds / FRAME) % len(SPINNER)]
                self._draw(f"{wheel} {self._text} {seconds:.0f} s")
        if pause == FRAME:
            self._draw("")

    def _bar(self, share: float, size: str, left: float | None) -> None:
        """Text, bar (as long as the window allows), per cent, size, and how long it may take."""
        behind = f" {share:4.0%}{size}{'' if left is None else f', {_about(left)} left'}"
        room = min(BAR, self._columns() - len(self._text) - len(behind) - 4)
        bar = f" [{'#' * round(share * room):<{room}}]" if room >= SHORTEST_BAR else ""
        self._draw(f"{self._text}{bar}{behind}")

    def _draw(self, text: str) -> None:
        """Write over the line; a terminal that went away ends the program elsewhere."""
        try:
            self._stream.write(CLEAR + _cut(text, self._columns() - 1))
            self._stream.flush()
        except OSError:
            self._over.set()

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or USUAL_WIDTH
        except (OSError, ValueError):
            return USUAL_WIDTH


def _size(done: int, total: int) -> str:
    """Both in the unit in which the total is a small number."""
    if total < 10**9:
        return f" {done / 1e6:.0f} of {total / 1e6:.0f} MB"
    return f" {done / 1e9:.1f} of {total / 1e9:.1f} GB"


def _about(seconds: float) -> str:
    """A time in the unit that a person would choose."""
    return f"about {seconds:.0f} s" if seconds < 100 else f"about {seconds / 60:.0f} min"


def _cut(text: str, columns: int) -> str:
    """The text, or as much of it as fits: a line that wraps could not be taken back."""
    from rich.cells import cell_len, set_cell_size

    return text if cell_len(text) <= columns else set_cell_size(text, max(columns, 0))
