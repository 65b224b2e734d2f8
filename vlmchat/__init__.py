"""A terminal chat with vision-language models.

    import vlmchat

    session = vlmchat.load("google/paligemma-3b-mix-224")
    session.add_image("cat.jpg")
    print(session.answer("what is this?").text)

The names below are imported when they are first used, so that `vlmchat --help` need not wait for
PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlmchat.engine import Engine as Engine
    from vlmchat.engine import Piece as Piece
    from vlmchat.engine import Reply as Reply
    from vlmchat.errors import UserError as UserError
    from vlmchat.loading import load as load
    from vlmchat.sampling import Sampling as Sampling
    from vlmchat.session import Session as Session
    from vlmchat.session import Settings as Settings

_HOMES = {
    "Engine": "engine",
    "Piece": "engine",
    "Reply": "engine",
    "Sampling": "sampling",
    "Session": "session",
    "Settings": "session",
    "UserError": "errors",
    "load": "loading",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
