"""What Tab offers: commands with their help, what a command takes, and paths as they are typed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from vlmchat.images import SUFFIXES
from vlmchat.terminal.commands import COMMANDS, find
from vlmchat.terminal.render import printable
from vlmchat.terminal.settings import SETTINGS

_BARE_PATH = re.compile(r"""['"]?(~|\.\.?)?/""")
_SPECIAL = re.compile(r"""([\s'"\\])""")  # what a backslash may stand before


class LineCompleter(Completer):
    """Completes commands, what a command's row in the table says that it takes, and bare paths."""

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        """What may stand at the cursor."""
        text = document.text_before_cursor
        name, space, rest = text.partition(" ")
        command = find(name) if name.startswith("/") else None
        if command is not None and space:
            return _argument(command.completes, rest.lstrip())
        if name.startswith("/") and not space and "/" not in name[1:]:
            rows = [(each, row.help) for row in COMMANDS for each in row.names]
            return _beginning(name, rows)
        return paths(text, is_image) if is_completed(text) else ()


def is_completed(text: str) -> bool:
    """Whether a line is a command or a path, for which there may be something to offer."""
    return _BARE_PATH.match(text) is not None


def _argument(takes: str, typed: str) -> Iterable[Completion]:
    """What a command takes, by the word in its row of the table."""
    if takes == "image":
        return paths(typed, is_image)
    if takes == "file":
        return paths(typed, lambda _: True)
    if takes == "setting":
        return _setting(typed)
    if takes == "command":
        return _beginning(typed, [(row.names[0][1:], row.help) for row in COMMANDS])
    return ()


def _setting(typed: str) -> Iterable[Completion]:
    """The name of a setting, and behind it those of its values that can be listed."""
    name, *value = re.split(r"\s*=\s*|\s+", typed, maxsplit=1)
    if not value:
        return _beginning(name, [(row.name, row.help) for row in SETTINGS])
    values = next((row.values for row in SETTINGS if row.name == name.lower()), ())
    return _beginning(value[0], [(each, "") for each in values])


def _beginning(typed: str, words: list[tuple[str, str]]) -> Iterator[Completion]:
    """The words that begin as typed, with their help beside them."""
    for word, help in words:
        if word.startswith(typed.lower()):
            yield Completion(word, start_position=-len(typed), display_meta=help)


def paths(typed: str, accepts: Callable[[str], bool]) -> Iterator[Completion]:
    r"""Folders, and the files that `accepts` takes by name, whose path begins as typed.

    The rest of a name is offered in the manner of what is there: behind a quote with the quote
    that ends it, behind a backslash with backslashes, else as it is, spaces included.
    """
    quote = typed[:1] if typed[:1] in ("'", '"') else ""
    escaped = not quote and "\\" in typed
    plain = re.sub(r"\\(.)", r"\1", typed) if escaped else typed[len(quote) :]
    folder, start = os.path.split(_at_home(plain))
    for name, is_folder in _entries(folder or ".", start):
        if (not is_folder and not accepts(name)) or (quote and re.search(r"['\"\\]", name)):
            continue
        rest = name[len(start) :]
        end = os.sep if is_folder else quote
        shown = name + (os.sep if is_folder else "")
        yield Completion((_SPECIAL.sub(r"\\\1", rest) if escaped else rest) + end, 0, shown)


def is_image(name: str) -> bool:
    """Whether a file's name ends as an image's does."""
    return name.lower().endswith(SUFFIXES)


def _at_home(path: str) -> str:
    """A path with `~` or `~name` before its first slash written out."""
    return os.path.expanduser(path) if "/" in path else path


def _entries(folder: str, start: str) -> list[tuple[str, bool]]:
    """Names in a folder that begin so, and whether each is a folder; hidden ones only if meant.

    A name that no line can hold, or that would steer the terminal, is left out.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(
                (entry.name, os.path.isdir(entry.path))
                for entry in entries
                if entry.name.startswith(start)
                and (start or not entry.name.startswith("."))
                and printable(entry.name) == entry.name
                and not re.search(r"[\n\t]", entry.name)
            )
    except (OSError, ValueError):  # no such folder, or one that may not be read
        return []
