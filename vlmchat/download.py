"""Fetch a checkpoint from the hub, so that progress can be shown and Ctrl-C ends it at once."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

THREAD = "vlmchat download"
LOOK = 0.1  # seconds

Progress = Callable[[int, int], None]  # bytes done, bytes in all


def fetch(repository: str, revision: str | None, wanted: list[str], report: Progress | None) -> str:
    """Download a snapshot into the hub's cache; its folder. Raises what the library raises.

    The library's own bars stay on the screen; ours show nothing, and pass on what they are told.
    """
    from huggingface_hub import snapshot_download

    with _no_bars():
        return _interruptible(
            partial(
                snapshot_download,
                repository,
                revision=revision,
                allow_patterns=wanted,
                tqdm_class=_reporter(report) if report else None,
            )
        )


def is_running() -> bool:
    """Whether a download still runs that Ctrl-C has ended for its caller."""
    return any(thread.name == THREAD for thread in threading.enumerate())


def _interruptible(download: Callable[[], str]) -> str:
    """What `download` gives or raises. A KeyboardInterrupt leaves it behind, still running.

    Else the library would wait until each file that it has begun is whole: minutes, or hours.
    """
    folders: list[str] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            folders.append(download())
        except BaseException as error:
            errors.append(error)
        over.set()

    over = threading.Event()
    threading.Thread(target=run, name=THREAD, daemon=True).start()
    while not over.wait(LOOK):  # a wait without limit would not see Ctrl-C everywhere
        pass
    if errors:
        raise errors[0]
    return folders[0]


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without the library's own progress bars, and afterwards as it was."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _reporter(report: Progress) -> Any:
    """A class for the library's `tqdm_class` that draws nothing and reports bytes.

    The library has several bars, for bytes received and bytes on disk; the one ahead counts.
    """
    from huggingface_hub.utils.tqdm import tqdm

    most = 0

    class Reporter(tqdm):
        def __init__(self, *values: Any, **options: Any) -> None:
            self.counts_bytes = options.get("unit") == "B"
            super().__init__(*values, **{**options, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            nonlocal most
            self.n += n or 0
            if self.counts_bytes and self.total:
                most = max(most, int(self.n))
                report(min(most, self.total), self.total)

    return Reporter
