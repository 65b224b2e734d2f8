"""Where the chat's lines come from: a line editor with history and completion, or a plain one."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input.typeahead import store_typeahead
from prompt_toolkit.input.vt100_parser import Vt100Parser
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.key_binding.key_processor import KeyPress
from prompt_toolkit.styles import Style

from vlmchat.terminal.completion import LineCompleter, is_completed
from vlmchat.terminal.render import one_line, printable

if TYPE_CHECKING:
    from prompt_toolkit.input import Input
    from prompt_toolkit.output import Output

    from vlmchat.terminal.render import Screen

PROMPT = ">>> "
# Not reversed: a row that is coloured to its end wraps when the window becomes narrower.
LOOKS = Style.from_dict({"bottom-toolbar": "noreverse #888888"})
REFRESH = 0.5  # seconds between two looks at what the toolbar says


class Editor(Protocol):
    """Anything that lines can be read from."""

    def read(self) -> str:
        """The next line. EOFError for Ctrl-D, KeyboardInterrupt for Ctrl-C on an empty line."""

    def interrupt(self) -> None:
        """Let `read` raise KeyboardInterrupt, now and from now on. For other threads."""


def open_editor(
    screen: Screen,
    status: Callable[[], str],
    input: Input | None = None,
    output: Output | None = None,
) -> Editor:
    """The line editor that this terminal can have: a full one needs escape sequences.

    `status` gives the text of its toolbar.
    """
    if screen.styled or input is not None:
        return FullEditor(screen, status, input, output)
    return PlainEditor(screen)


class FullEditor:
    """prompt_toolkit's: Enter sends, Alt-Enter begins a new line, Tab completes.

    Room for the list of completions is taken below the prompt only while a line has some.
    """

    def __init__(
        self,
        screen: Screen,
        status: Callable[[], str],
        input: Input | None = None,
        output: Output | None = None,
    ) -> None:
        self._screen = screen
        self._interrupted = False
        self._session: PromptSession[str] = PromptSession(
            PROMPT,
            history=open_history(),
            auto_suggest=AutoSuggestFromHistory(),
            completer=LineCompleter(),
            complete_while_typing=Condition(lambda: is_completed(get_app().current_buffer.text)),
            reserve_space_for_menu=6,
            key_bindings=_keys(),
            bottom_toolbar=lambda: [("", f" {printable(one_line(status()))}")],
            refresh_interval=REFRESH,
            style=LOOKS,
            input=input,
            output=output,
        )

    def read(self) -> str:
        """The next line, or lines; it begins with what was typed before there was a prompt."""
        _type(self._screen.typed_ahead(), self._session.app.input)
        return self._session.prompt(pre_run=self._check)

    def interrupt(self) -> None:
        """Let `read` raise KeyboardInterrupt, now and from now on. For other threads."""
        self._interrupted = True
        loop = self._session.app.loop
        if loop is not None:
            with suppress(RuntimeError):  # closed since: the next `read` looks by itself
                loop.call_soon_threadsafe(self._check)

    def _check(self) -> None:
        app = self._session.app
        if self._interrupted and app.is_running and not app.is_done:
            app.exit(exception=KeyboardInterrupt)


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
        self._reading = self._interrupted = False

    def read(self) -> str:
        """The next line; one that Ctrl-C cleared is skipped."""
        while True:
            try:
                return self._input()
            except (EOFError, KeyboardInterrupt) as end:
                self._screen.say("")  # readline leaves the cursor behind the prompt
                if isinstance(end, EOFError) or self._interrupted or not self._typed():
                    raise

    def _input(self) -> str:
        self._reading = True
        try:
            if self._interrupted:
                raise KeyboardInterrupt
            return input(PROMPT)
        finally:
            self._reading = False

    def interrupt(self) -> None:
        """Let `read` raise KeyboardInterrupt, now and from now on. For other threads."""
        self._interrupted = True
        if self._reading:  # nothing but a signal wakes readline
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


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
