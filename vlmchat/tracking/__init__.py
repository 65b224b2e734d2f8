"""Tracking: the record of a chat, kept in a journal and filed as a Comet experiment.

    answer on the screen -> records (plain JSON) -> journal (a file, synced)
                                                       |   read by another process
                                                    filer -> comet -> Comet, or an archive

The chat only ever writes the journal. A second process reads it and talks to Comet, so that neither
comet_ml nor a slow network is ever in the way of an answer; nor is its work, which it is given when
the chat waits for the next line, or at the end where nobody types. A journal is deleted once its
experiment has ended well; what is left over is filed by hand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from vlmchat.session import Session, Turn


class Tracker(Protocol):
    """Who keeps the record of a chat. None of its methods raises an Exception."""

    def record(self, session: Session, turn: Turn) -> None:
        """Keep a finished turn."""

    def idle(self) -> None:
        """Use the time in which nobody waits for an answer."""

    def news(self) -> list[str]:
        """Lines that a person should read, each given once."""

    def close(self) -> None:
        """End the record and wait a moment until it is filed."""


class NullTracker:
    """Keeps nothing."""

    def record(self, session: Session, turn: Turn) -> None:
        """Nothing."""

    def idle(self) -> None:
        """Nothing."""

    def news(self) -> list[str]:
        """None."""
        return []

    def close(self) -> None:
        """Nothing."""
