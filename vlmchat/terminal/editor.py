"""Where the chat's lines come from: a line editor with history and completion, or a plain one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input.typeahead import store_typeahead
from prompt_toolkit.input.vt100_parser import Vt100Parser
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.key_binding.key_processor import KeyPress

from vlmchat.images import SUFFIXES
from vlmchat.terminal.commands import COMMANDS, find
from vlmchat.terminal.settings import SETTINGS

if TYPE_CHECKING:
    from prompt_toolkit.input import Input
    from prompt_toolkit.output import Output

    from vlmchat.terminal.render import Screen

PROMPT = ">>> "


class Editor(Protocol):
    """Anything that lines can be read from."""

    def read(self) -> str:
        """The next line. EOFError for Ctrl-D, KeyboardInterrupt for Ctrl-C on an empty line."""


def open_editor(screen: Screen, input: Input | None = None, output: Output | None = None) -> Editor:
    """The line editor that this terminal can have: a full one needs escape sequences."""
    if screen.styled or input is not None:
        return FullEditor(screen, input, output)
    return PlainEditor(screen)


class FullEditor:
    """prompt_toolkit's: Enter sends, Alt-Enter begins a new line, Tab completes."""

    def __init__(
        self, screen: Screen, input: Input | None = None, output: Output | None = None
    ) -> None:
        self._screen = screen
        self._session: PromptSession[str] = PromptSession(
            PROMPT,
            history=open_history(),
            auto_suggest=AutoSuggestFromHistory(),
            completer=LineCompleter(),
            complete_while_typing=True,
            reserve_space_for_menu=6,
            key_bindings=_keys(),
            input=input,
            output=output,
        )

    def read(self) -> str:
        """The next line, or lines; it begins with what was typed before there was a prompt."""
        _type(self._screen.typed_ahead(), self._session.app.input)
        return self._session.prompt()


def _type(text: str, input: Input) -> None:
    """Have the editor read these keys before those that come from the keyboard."""
    keys: list[KeyPress] = []
    Vt100Parser(keys.append).feed_and_flush(text)
    if keys:
        store_typeahead(input, keys)


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _newline(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    @keys.add("<sigint>")
    def _clear(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt)

    return keys


class PlainEditor:
    """readline's, told that the terminal is dumb: it edits without any escape sequence."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._typed = _plain_readline()

    def read(self) -> str:
        """The next line; one that Ctrl-C cleared is skipped."""
        while True:
            try:
                return input(PROMPT)
            except (EOFError, KeyboardInterrupt) as end:
                self._screen.say("")  # readline leaves the cursor behind the prompt
                if isinstance(end, EOFError) or not self._typed():
                    raise


def _plain_readline() -> Callable[[], str]:
    """Load readline, where Python has it, in its plainest mode; what gives the line so far."""
    kind = os.environ.get("TERM", "")
    os.environ["TERM"] = "dumb"  # it asks once, now
    try:
        import readline
    except ImportError:
        return str
    finally:
        os.environ["TERM"] = kind
    return readline.get_line_buffer


class LineCompleter(Completer):
    """Completes commands, and what a command's row in the table says that it takes."""

    def __init__(self) -> None:
        self._images = PathCompleter(expanduser=True, file_filter=_is_image_or_folder)
        self._files = PathCompleter(expanduser=True)

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        """What may stand at the cursor of a line that begins with a slash."""
        text = document.text_before_cursor
        name, space, rest = text.partition(" ")
        if not name.startswith("/"):
            return
        if not space:
            yield from _beginning(
                name, [(each, row.help) for row in COMMANDS for each in row.names]
            )
            return
        command = find(name)
        takes = command.completes if command is not None else ""
        if takes in ("image", "file"):
            paths = self._images if takes == "image" else self._files
            yield from paths.get_completions(Document(rest.lstrip()), complete_event)
        elif takes == "setting":
            yield from _beginning(rest, [(row.name, row.help) for row in SETTINGS])
        elif takes == "command":
            yield from _beginning(rest, [(row.names[0][1:], row.help) for row in COMMANDS])


def _beginning(typed: str, words: list[tuple[str, str]]) -> Iterable[Completion]:
    """The words that begin as typed, with their help beside them."""
    for word, help in words:
        if word.startswith(typed.lower()):
            yield Completion(word, start_position=-len(typed), display_meta=help)


def _is_image_or_folder(path: str) -> bool:
    return path.lower().endswith(SUFFIXES) or os.path.isdir(path)


def open_history() -> History:
    """The lines of earlier chats, in a file that only its owner can read.

    `VLMCHAT_HISTORY` names another file, or none when it is empty. Where the file cannot be
    written, the history lasts as long as the chat.
    """
    chosen = os.environ.get("VLMCHAT_HISTORY")
    if chosen == "":
        return InMemoryHistory()
    path = Path(chosen).expanduser() if chosen else _state_folder() / "history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    except OSError:
        return InMemoryHistory()
    return _ForgivingHistory(path)


def _state_folder() -> Path:
    from platformdirs import user_state_path

    return user_state_path("vlmchat", appauthor=False)


class _ForgivingHistory(FileHistory):
    """A history file whose disk may fill up, or that may vanish, while a chat goes on."""

    def store_string(self, string: str) -> None:
        with suppress(OSError):
            super().store_string(string)

    def load_history_strings(self) -> Iterable[str]:
        with suppress(OSError):
            return super().load_history_strings()
        return []
