"""The tracker of a running chat: it writes the journal and keeps a filer at its side."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING

from vlmchat.errors import UserError
from vlmchat.tracking import filer, records
from vlmchat.tracking.destination import Destination
from vlmchat.tracking.journal import Journal, journal_folder, left_over

if TYPE_CHECKING:
    from vlmchat.session import Session, Turn

PATIENCE = 10.0  # seconds that the end of a chat waits for the filer
HOW_TO_STOP = "--no-track or /set track off stops it"
NOT_INSTALLED = "comet_ml is not installed: pip install 'vlmchat[comet]'"


class CometTracker:
    """Records turns in a journal, which a filer brings to Comet as they come.

    Its first news is where the record goes, and what was left over by earlier chats. Nothing is
    made before the first turn, so that a chat without one leaves no trace. What goes wrong is told
    once and ends the tracking, never the chat.
    """

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._journal: Journal | None = None
        self._filer: _Filer | None = None
        self._given_up = False
        self._steps = 0
        self._images: set[str] = set()
        self._news: list[str] = []
        if find_spec("comet_ml") is None:
            self._give_up(UserError(NOT_INSTALLED))
            return
        self._news.append(f"tracked with Comet, {self._place()}: {HOW_TO_STOP}")
        offer = offer_left_over(left_over())
        self._news += [offer] if offer else []

    def _place(self) -> str:
        """Where the record goes, for a person."""
        there = self._destination
        project = f"project {there.project}"
        if there.workspace:
            project += f" of workspace {there.workspace}"
        if there.online:
            return project
        return f"offline for {project}, into {there.offline_folder}"

    def record(self, session: Session, turn: Turn) -> None:
        """Write a turn, with its image the first time."""
        self._attempt(lambda: self._write(session, turn))

    def idle(self) -> None:
        """Let the filer work on what is new; the first time, start it."""
        if self._journal is not None:
            self._attempt(self._file)

    def news(self) -> list[str]:
        """What there is to say, by us and by the filer."""
        if self._filer is not None:
            self._news += self._filer.said()
        news, self._news = self._news, []
        return news

    def close(self) -> None:
        """Write the end, and wait until the filer is done, or for as long as anybody would."""
        if self._journal is None:
            return
        self._attempt(self._end)
        journal, self._journal, self._given_up = self._journal, None, True
        if self._filer is not None and not self._filer.finish(PATIENCE):
            self._news.append(
                "Comet is slow: the record is still on its way; if it does not arrive, "
                + filer.kept(journal.path)
            )
        journal.close()  # only now: until the filer holds it, nobody else may take it for left over

    def _attempt(self, step: Callable[[], None]) -> None:
        if self._given_up:
            return
        try:
            step()
        except Exception as error:  # whatever it is, it is not worth a chat
            self._give_up(error)

    def _write(self, session: Session, turn: Turn) -> None:
        if self._journal is None:
            self._journal = Journal()
            self._journal.append(records.run_record(session, session.engine.quantize))
        picture = turn.picture
        if picture is not None and picture.key not in self._images:
            self._journal.append(records.image_record(picture))
            self._images.add(picture.key)
        self._journal.append(records.turn_record(session, turn, self._steps + 1))
        self._steps += 1

    def _file(self) -> None:
        assert self._journal is not None
        if self._filer is None:
            self._filer = _Filer(self._journal.path, self._destination)
        self._filer.poke()

    def _end(self) -> None:
        assert self._journal is not None
        self._journal.append(records.end_record())
        self._file()

    def _give_up(self, error: Exception) -> None:
        self._given_up = True
        if isinstance(error, UserError):
            why = str(error)
        elif isinstance(error, OSError):
            where = self._journal.path if self._journal else journal_folder()
            why = f"cannot write {where} ({error.strerror})"
        else:
            why = f"internal error ({type(error).__name__}: {error})"
        self._news.append(f"not tracked from here on: {why}")
        if self._journal is not None and not self._steps:  # nothing that anybody would file
            with suppress(OSError):
                self._journal.path.unlink()


def offer_left_over(journals: list[Path]) -> str | None:
    """The line that says how to file what earlier chats have left; None where that is nothing."""
    if not journals:
        return None
    what = "an earlier chat was" if len(journals) == 1 else f"{len(journals)} earlier chats were"
    path = journals[0] if len(journals) == 1 else journals[0].parent
    return f"{what} not filed: vlmchat --track-import {shlex.quote(str(path))} does it"


class _Filer:
    """The filer's process, from the chat's side.

    What it says goes into a file, which it can write to even when the chat has gone, and which has
    no name, so that it goes with the last of them.
    """

    def __init__(self, journal: Path, destination: Destination) -> None:
        self._journal = journal
        with tempfile.NamedTemporaryFile(delete=False) as said:
            self._said: IO[bytes] = open(said.name, "rb")  # noqa: SIM115  # with its own position
            with suppress(PermissionError):  # Windows keeps the name of an open file
                os.unlink(said.name)
            self._process = filer.start(journal, destination, follow=True, said=said)
        self._rest = b""

    def poke(self) -> None:
        """Say that the journal has grown. A filer that has ended has said why, or `said` does."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()

    def finish(self, seconds: float) -> bool:
        """Say that the chat is over and wait so long; Ctrl-C ends the waiting. Whether it ended."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(seconds)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            return False
        return True

    def said(self) -> list[str]:
        """The whole lines that it has written since the last call, and that it died, if so."""
        if self._said.closed:
            return []
        code = self._process.poll()
        *whole, self._rest = (self._rest + self._said.read()).split(b"\n")
        lines = [line.decode("utf-8", "replace") for line in whole]
        if code is not None:
            self._said.close()
            if code == filer.CUT_OFF:
                lines.append(f"the record is not whole: {filer.kept(self._journal)}")
            elif code not in (filer.FILED, filer.SAID_WHY):
                lines.append(f"the tracking process ended ({code}): {filer.kept(self._journal)}")
        return lines
