"""The only writer to the screen: answers go to stdout, everything else to stderr.

Answers are written piece by piece as they come and never touched again: no cursor movement, no
Markdown, no wrapping, so that copying, resizing and scrolling stay right, and a pipe gets the same
bytes as a terminal. Styles and the waiting line exist on stderr, before and after a stream.
"""

from __future__ import annotations

import io
import json
import os
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any, TextIO

from vlmchat.terminal.waiting import Waiting

if TYPE_CHECKING:
    from rich.console import Console

    from vlmchat.engine import Piece, Reply
    from vlmchat.overlay import Scene
    from vlmchat.terminal.detect import Kind

Watch = Callable[[Callable[[float], None]], AbstractContextManager[None]]

# C0 but tab and line feed, DEL, C1, marks that reorder text, and halves of surrogate pairs.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """Text that cannot steer a terminal: each character that could becomes U+FFFD.

    It works a character at a time, so it does not matter where a stream was cut into pieces.
    """
    return _UNPRINTABLE.sub("\ufffd", text)


def one_line(text: str) -> str:
    """Text with its line breaks, and the space around them, folded into single spaces."""
    return " ".join(part.strip() for part in text.splitlines() if part.strip())


class OutputError(Exception):
    """A stream takes no more text: the reader has left, or the disk is full.

    Not a UserError: it ends the program, and not one line. `closed` is True for a broken pipe.
    """

    def __init__(self, error: OSError) -> None:
        self.closed = isinstance(error, BrokenPipeError)
        super().__init__(f"cannot write the output: {error.strerror or error}")


class Screen:
    """stdout and stderr, and what may be written to each.

    `styled` (stdout) and `err_styled` (stderr) tell whether escape sequences are allowed there: a
    terminal that is not dumb, and nobody asked for plain text. With `as_json`, stdout is JSON
    Lines. `quiet` leaves out everything on stderr that is neither an error nor asked for.
    `graphics` is how pictures are drawn, in the words of `--graphics`.
    """

    def __init__(
        self,
        out: TextIO,
        err: TextIO,
        *,
        as_json: bool = False,
        color: bool = True,
        quiet: bool = False,
        verbose: bool = False,
        graphics: str = "auto",
    ) -> None:
        self.out, self.err = _forgiving(out), _forgiving(err)
        self.as_json, self.quiet, self.verbose = as_json, quiet, verbose
        self.styled = color and takes_escapes(out)
        self.err_styled = color and takes_escapes(err)
        self._graphics = graphics
        self._typed = ""

    def answer(
        self, stream: Iterable[Piece | Reply], about: str, watch: Watch | None = None
    ) -> Reply:
        """Write an answer as it comes and end it with one newline; return the Reply.

        `about` is what the waiting line shows until the first piece, and `watch` tells it how far
        that is. What was written stays, and its line is ended, whatever interrupts the stream. In
        JSON mode nothing is written here.
        """
        from vlmchat.engine import Reply

        begun = False
        with ExitStack() as waiting:
            waiting.enter_context(self.waiting(about, watch))
            try:
                for part in stream:
                    if isinstance(part, Reply):
                        reply = part
                    elif not self.as_json:
                        waiting.close()
                        begun = True
                        self._write(self.out, printable(part.text))
            finally:
                if begun:
                    self._write(self.out, "\n")
        if not begun and not self.as_json:
            self._write(self.out, "\n")
        return reply

    def record(self, fields: Mapping[str, Any]) -> None:
        """Write one JSON object and its newline to stdout."""
        self._write(self.out, json.dumps(fields, allow_nan=False) + "\n")

    def failed(self, prompt: str, error: BaseException) -> None:
        """Report a line that failed: a JSON object on stdout, or one line on stderr."""
        text = describe(error)
        if self.as_json:
            self._trace(error)
            self.record({"prompt": _unicode(prompt), "error": _unicode(text)})
        else:
            self.error(text, error)

    def error(self, text: str, error: BaseException | None = None) -> None:
        """Write `vlmchat: text` as one line on stderr, behind the traceback if verbose."""
        self._trace(error)
        self._line(f"vlmchat: {one_line(text)}", "red")

    def notice(self, text: str) -> None:
        """Write something worth knowing that nobody asked for; nothing when quiet."""
        if not self.quiet:
            self._line(text, "dim")

    def say(self, text: str) -> None:
        """Write what a command answers."""
        self._line(text, "")

    def legend(self, lines: Sequence[str]) -> None:
        """Write numbered lines, each number in the colour of its box in the picture."""
        if self.quiet:
            return
        from vlmchat.overlay import color_of

        for number, line in enumerate(lines, 1):
            at = line.index(str(number)) + len(str(number))
            color = "#{:02x}{:02x}{:02x}".format(*color_of(number))
            self._write(self.err, self._in_style(line[:at], f"bold {color}"))
            self._line(line[at:], "")

    def scene(self, scene: Scene) -> None:
        """Draw a picture with what lies over it, on a terminal with colours; elsewhere nothing."""
        if self.quiet or self.as_json or not (self.styled and self.err_styled):
            return
        from vlmchat.terminal.graphics import Window, cell_of, render

        kind = self._kind
        if kind is not None:
            window = Window(*self._console.size, cell_of(self.err))
            self._write(self.err, render(scene, kind, window, self._console))

    def typed_ahead(self) -> str:
        """What was typed while the terminal was asked what it can draw, given once."""
        typed, self._typed = self._typed, ""
        return typed

    @cached_property
    def _kind(self) -> Kind | None:
        """How pictures are drawn here; None for not at all. It is found out once, when needed."""
        from vlmchat.terminal.graphics import choose

        if self._graphics == "off":
            return None
        answer = choose(self._graphics, self.err)
        self._typed += answer.typed
        console = self._console
        if answer.kind == "blocks" and not (
            console.color_system and console.encoding.startswith("utf")
        ):
            return None
        return answer.kind

    @contextmanager
    def waiting(self, text: str, watch: Watch | None = None) -> Iterator[None]:
        """Show on a terminal, while the block runs, that something is going on; then remove it.

        `watch`, given what to call, calls it with the share that is done, as long as it is open.
        """
        if self.quiet or not self.err_styled:
            yield
            return
        shown = Waiting(self.err, printable(one_line(text)))
        with shown, watch(shown.reached) if watch else nullcontext():
            yield

    @contextmanager
    def loading(self, text: str) -> Iterator[Callable[[int, int], None] | None]:
        """The same for a long load; gives the function to call with bytes done and in all.

        None where no progress is wanted: stderr is not a terminal, or quiet.
        """
        if self.quiet or not self.err.isatty():
            yield None
        elif not self.err_styled:
            self._line(printable(text), "")
            yield None
        else:
            with Waiting(self.err, printable(one_line(text))) as waiting:
                yield waiting.progress

    def _trace(self, error: BaseException | None) -> None:
        """With --verbose, where an error comes from."""
        if error is not None and self.verbose:
            self._line("".join(traceback.format_exception(error)).rstrip(), "dim")

    def _line(self, text: str, style: str) -> None:
        """Write a text of one or more lines to stderr, sanitised, in a style where it may be."""
        self._write(self.err, self._in_style(text, style) + "\n")

    def _in_style(self, text: str, style: str) -> str:
        """A text, sanitised, and in a style where stderr may have one."""
        text = printable(text)
        if not (style and self.err_styled):
            return text
        with self._console.capture() as styled:
            self._console.print(text, style=style, soft_wrap=True, end="")
        return styled.get()

    @cached_property
    def _console(self) -> Console:
        """What knows how this terminal writes styles. Markup and emoji codes stay plain text."""
        from rich.console import Console

        return Console(
            file=self.err, force_terminal=True, markup=False, emoji=False, highlight=False
        )

    def _write(self, stream: TextIO, text: str) -> None:
        try:
            stream.write(text)
            stream.flush()
        except OSError as error:
            raise OutputError(error) from error


def describe(error: BaseException) -> str:
    """What a person reads of an error; a bug says so, and how to see more of it."""
    from vlmchat.errors import UserError

    if isinstance(error, UserError):
        return str(error)
    return f"internal error ({type(error).__name__}: {error}): see more of it with --verbose"


def takes_escapes(stream: TextIO) -> bool:
    """Whether escape sequences may be written: a terminal that is not dumb, without NO_COLOR."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return stream.isatty() and not plain


def _forgiving(stream: TextIO) -> TextIO:
    """The same stream, writing `?` where its encoding has no such character, never raising."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")
    return stream


def _unicode(text: str) -> str:
    """Text without lone surrogates, which JSON can write and many readers refuse."""
    return text.encode("utf-8", "replace").decode("utf-8")
