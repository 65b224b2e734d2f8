"""What a line can come to: a prompt to ask, something to say, or the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmchat.errors import UserError

if TYPE_CHECKING:
    from vlmchat.overlay import Scene


class CommandError(UserError):
    """A line that cannot be carried out."""


@dataclass(frozen=True)
class Ask:
    """A prompt for the model, the line it came from, and what to tell the person before."""

    prompt: str
    line: str
    notice: str | None = None


@dataclass(frozen=True)
class Say:
    """A text for the person; it may have several lines, and a picture to show with it."""

    text: str
    scene: Scene | None = None


@dataclass(frozen=True)
class Quit:
    """The person wants to leave."""


Outcome = Ask | Say | Quit
