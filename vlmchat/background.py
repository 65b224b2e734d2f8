"""A model that is loaded in a thread while its chat has begun."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlmchat.session import Session


class LoadError(Exception):
    """The model could not be loaded, for a `reason`.

    Not a UserError: it ends the program, and not one line.
    """

    def __init__(self, reason: Exception) -> None:
        self.reason = reason
        super().__init__(str(reason))


class Loading:
    """One load in a thread of its own. `load` gets a function to call with bytes done and in all.

    Its session is never used itself: the one that stands in for it takes over what it holds.
    """

    def __init__(self, load: Callable[[Callable[[int, int], None]], Session]) -> None:
        self.progress = (0, 0)
        self._load = load
        self._loaded: Future[Session] = Future()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def _run(self) -> None:
        try:
            self._loaded.set_result(self._load(self._note))
        except BaseException as error:
            self._loaded.set_exception(error)

    def _note(self, done: int, total: int) -> None:
        self.progress = (done, total)

    @property
    def is_over(self) -> bool:
        """Whether it has ended, well or not."""
        return self._loaded.done()

    @property
    def has_failed(self) -> bool:
        """Whether it has ended without a model."""
        return self.is_over and self._loaded.exception() is not None

    def wait(self, seconds: float) -> None:
        """Wait until it is over, but no longer than that."""
        wait([self._loaded], seconds)

    def result(self) -> Session:
        """What was loaded, for which this waits. Raises LoadError."""
        try:
            return self._loaded.result()
        except Exception as error:
            raise LoadError(error) from error

    def when_failed(self, act: Callable[[], None]) -> None:
        """Call `act`, from the loading thread, if it fails, or now if it has."""
        self._loaded.add_done_callback(lambda loaded: act() if loaded.exception() else None)

    def stop(self) -> None:
        """End it where it is, if it is not over, and wait for that."""
        end(self._thread)


def end(thread: threading.Thread) -> None:
    """End a thread, and wait for it: it meets SystemExit between two operations.

    One that is inside PyTorch when the interpreter goes down aborts the whole process ("terminate
    called without an active exception"), so it has to be gone by then.
    """
    if thread.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit)
        )
        thread.join()
