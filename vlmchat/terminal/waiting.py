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
        """Seconds from `now` until the share is 1; None while it is too soon to say."""
        if self._first is None or share < self._first[0]:  # another piece of work has begun
            self._first = (share, now)
        first_share, then = self._first
        if share - first_share < 0.02 or now - then < DELAY:
            return None
        return (now - then) * (1 - share) / (share - first_share)


class Waiting:
    """A context manager that shows `text` on a terminal for as long as its block runs.

    With `spin` a thread draws: a wheel and the seconds so far, and once `reached` has been told how
    far it is, a bar with an estimate. Without, only `progress` draws.
    """

    def __init__(self, stream: TextIO, text: str, *, spin: bool) -> None:
        self._stream = stream
        self._text = text
        self._started = self._drawn = time.monotonic()
        self._share = 0.0
        self._estimate = Estimate()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True) if spin else None

    def __enter__(self) -> Waiting:
        if self._thread is not None:
            self._thread.start()
        else:
            self._draw(self._text)
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._over.set()
        if self._thread is not None:
            self._thread.join()
        else:
            self._draw("")

    def reached(self, share: float) -> None:
        """Note how much of the work is done, 0 to 1, from any thread; it never goes back."""
        self._share = max(self._share, share)

    def progress(self, done: int, total: int) -> None:
        """Draw a bar for `done` of `total` bytes, a few times a second at most, from any thread."""
        now = time.monotonic()
        share = done / max(total, 1)
        with self._lock:
            left = self._estimate.left(share, now)
            if now - self._drawn >= FRAME and not self._over.is_set():
                self._drawn = now
                self._bar(share, f" {_size(done, total)}", left)

    def _spin(self) -> None:
        pause = DELAY
        while not self._over.wait(pause):
            pause = FRAME
            now = time.monotonic()
            seconds = now - self._started
            if self._share:
                self._bar(self._share, "", self._estimate.left(self._share, now))
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
        return f"{done / 1e6:.0f} of {total / 1e6:.0f} MB"
    return f"{done / 1e9:.1f} of {total / 1e9:.1f} GB"


def _about(seconds: float) -> str:
    """A time in the unit that a person would choose."""
    return f"about {seconds:.0f} s" if seconds < 100 else f"about {seconds / 60:.0f} min"


def _cut(text: str, columns: int) -> str:
    """The text, or as much of it as fits: a line that wraps could not be taken back."""
    from rich.cells import cell_len, set_cell_size

    return text if cell_len(text) <= columns else set_cell_size(text, max(columns, 0))
