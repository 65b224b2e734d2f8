"""The line that says something is going on: drawn over itself, gone when it is over."""

from __future__ import annotations

import threading
import time
from typing import TextIO

DELAY = 0.3  # seconds; what is over sooner shows nothing
FRAME = 0.1  # seconds between two looks of the spinner
SPINNER = "|/-\\"
BAR = 24  # characters
CLEAR = "\r\x1b[2K"  # to the start of the line, and empty it


class Waiting:
    """A context manager that shows `text` on a terminal for as long as its block runs.

    With `spin` a thread turns a wheel and counts seconds, for work that reports nothing. Without,
    only `progress` draws, so that the bars of a download can have the line in between.
    """

    def __init__(self, stream: TextIO, text: str, *, spin: bool) -> None:
        self._stream = stream
        self._text = text
        self._started = self._drawn = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True) if spin else None

    def __enter__(self) -> Waiting:
        if self._thread is not None:
            self._thread.start()
        else:
            self._draw(self._text)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        else:
            self._draw("")

    def progress(self, done: int, total: int) -> None:
        """Draw a bar for `done` of `total` bytes, a few times a second at most."""
        now = time.monotonic()
        if now - self._drawn < FRAME:
            return
        self._drawn = now
        share = done / max(total, 1)
        bar = "#" * round(share * BAR)
        size = f"{done / 1e9:.1f} of {total / 1e9:.1f} GB"
        self._draw(f"{self._text} [{bar:<{BAR}}] {share:4.0%} {size}")

    def _spin(self) -> None:
        pause = DELAY
        while not self._over.wait(pause):
            seconds = time.monotonic() - self._started
            wheel = SPINNER[int(seconds / FRAME) % len(SPINNER)]
            self._draw(f"{wheel} {self._text} {seconds:.0f} s")
            pause = FRAME
        if pause == FRAME:
            self._draw("")

    def _draw(self, text: str) -> None:
        """Write over the line; a terminal that went away ends the program elsewhere."""
        try:
            self._stream.write(CLEAR + text)
            self._stream.flush()
        except OSError:
            self._over.set()
