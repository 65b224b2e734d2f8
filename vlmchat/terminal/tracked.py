"""Tracking from the terminal's side: around a run, and by hand for what an earlier run left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from vlmchat.errors import UserError
from vlmchat.tracking import NullTracker
from vlmchat.tracking.destination import Destination, api_key

if TYPE_CHECKING:
    from vlmchat.session import Session
    from vlmchat.terminal.render import Screen

FILED, FAILED = 0, 1


@contextmanager
def tracked(session: Session, wanted: bool | None, screen: Screen) -> Iterator[None]:
    """Track the answers given inside: if wanted, or, where that is None, if Comet is configured.

    Nothing of tracking is loaded where it is not to be; `keep` makes up for it after
    `/set track on`.
    """
    if api_key() is not None if wanted is None else wanted:
        session.settings = replace(session.settings, track=True)
        _begin(session)
        show_news(session, screen)
    try:
        yield
    finally:
        with screen.waiting("finishing the record for Comet"):
            session.tracker.close()
        show_news(session, screen)


def keep(session: Session) -> None:
    """Give the last answer to the tracker."""
    if isinstance(session.tracker, NullTracker):
        _begin(session)
    session.tracker.record(session, session.turns[-1])


def _begin(session: Session) -> None:
    """Give the session a tracker, which makes nothing before a first answer."""
    from vlmchat.tracking.live import CometTracker

    session.tracker = CometTracker(Destination.read())


def show_news(session: Session, screen: Screen) -> None:
    """Show what the tracker has to say."""
    for line in session.tracker.news():
        screen.notice(line)


def file_by_hand(path: Path, screen: Screen) -> int:
    """File a journal, or all left-over ones of a folder; 1 if any could not be filed, else 0."""
    from vlmchat.tracking import live
    from vlmchat.tracking.journal import left_over

    if find_spec("comet_ml") is None:
        raise UserError(live.NOT_INSTALLED)
    journals = left_over(path) if path.is_dir() else [path]
    if not journals:
        screen.say(f"no chat is left over in {path}")
    return max([_file(journal, screen) for journal in journals], default=FILED)


def _file(journal: Path, screen: Screen) -> int:
    """Have one journal filed and show what became of it."""
    import subprocess

    from vlmchat.tracking import filer

    with screen.waiting(f"filing {journal.name}"):
        process = filer.start(journal, Destination.read(), follow=False, said=subprocess.PIPE)
        try:
            said, _ = process.communicate()
        except KeyboardInterrupt:
            process.kill()
            process.wait()
            raise
    show = screen.say if process.returncode == filer.FILED else screen.error
    for line in said.decode("utf-8", "replace").splitlines():
        show(line)
    return FILED if process.returncode == filer.FILED else FAILED
