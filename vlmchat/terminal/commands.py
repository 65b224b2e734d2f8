"""What a typed line means: one table of commands, and `run`, which turns a line into an outcome.

Commands change the session and say something, or give a prompt to ask. They never print and never
generate: the front end shows a Say, streams an Ask, and leaves on Quit.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Union

from vlmchat.errors import UserError
from vlmchat.terminal import reports
from vlmchat.terminal.settings import SETTINGS, change

if TYPE_CHECKING:
    from vlmchat.session import Session


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
    """A text for the person; it may have several lines."""

    text: str


@dataclass(frozen=True)
class Quit:
    """The person wants to leave."""


Outcome = Union[Ask, Say, Quit]  # noqa: UP007 - evaluated at run time on Python 3.10 too


@dataclass(frozen=True)
class Command:
    """A row of the table.

    `hint` shows the argument: empty where there is none, in brackets where it may be left out.
    `completes` tells the line editor what the argument is: an "image", a "file", a "setting" or
    a "command"; empty for free text.
    """

    names: tuple[str, ...]
    hint: str
    help: str
    more: str
    act: Callable[[str, Session], Outcome]
    completes: str = ""

    @property
    def usage(self) -> str:
        """The command with its argument, as typed."""
        return f"{self.names[0]} {self.hint}".rstrip()


def run(line: str, session: Session) -> Outcome | None:
    """Carry out one line; None for a blank one. Raises UserError (most often CommandError).

    A known command name is always the command. Any other line that begins with the path of an
    image loads it, even where the path begins with "/". What is left is an unknown command, the
    path of an image that is not there, or a question.
    """
    text = line.strip()
    if not text:
        return None
    split = re.match(r"\s*(/\S*)(?:\s(.*))?", line.rstrip("\r\n"), re.DOTALL)
    if split is not None:
        command = find(split[1])
        if command is not None:
            return _act(command, split[2] or "", session)
    return _image_line(text, session) or _question(text, session)


def find(name: str) -> Command | None:
    """The command of that name or alias, in upper or lower case, with or without its slash."""
    wanted = "/" + name.lower().removeprefix("/")
    return next((command for command in COMMANDS if wanted in command.names), None)


def _act(command: Command, argument: str, session: Session) -> Outcome:
    """Run a command after checking that it has an argument where it needs one, and only there."""
    name, given = command.names[0], argument.strip()
    if command.hint and not command.hint.startswith("[") and not given:
        raise CommandError(f"{name} needs something after it: type {command.usage}")
    if given and not command.hint:
        raise CommandError(f"{name} takes nothing after it: type {name} alone")
    return command.act(argument, session)


def _image_line(text: str, session: Session) -> Outcome | None:
    """Load the image whose path the line begins with and carry out what follows; None if none."""
    from vlmchat.images import split_path

    found = split_path(text)
    if found is None:
        return None
    path, rest = found
    notice = _load(path, session)
    outcome = run(rest, session)
    if isinstance(outcome, Ask):
        return replace(outcome, notice="\n".join(filter(None, (notice, outcome.notice))))
    if isinstance(outcome, Say):
        return Say(f"{notice}\n{outcome.text}")
    return outcome or Say(notice)


def _load(path: Path, session: Session) -> str:
    """Load an image; the text that says which one is current now."""
    number = session.add_image(path)
    return reports.picture(number, session.pictures[number - 1])


def _question(text: str, session: Session) -> Ask:
    """A line that is a question, unless it looks like a command or a file that is not there."""
    missing = _missing_file(text)
    if missing is not None:
        session.fail_image(missing)
        raise CommandError(
            f"there is no image file {missing}: check the path, or send it as text with /ask {text}"
        )
    if text.startswith("/"):
        name = text.split()[0]
        names = [name for command in COMMANDS for name in command.names]
        raise CommandError(
            f"there is no command {name}: {_nearest(name.lower(), names)}/help lists them all,"
            f" and /ask {text} sends it as text"
        )
    return Ask(session.prompt_for(text), text)


def _missing_file(text: str) -> str | None:
    """What the line begins with, if that reads as the path of an image; known to be no file."""
    quoted = re.match(r"""(['"])(.+?)\1""", text)
    first = quoted[2] if quoted else re.match(r"(\\.|\S)+", text)[0]  # type: ignore[index]
    image = re.search(r"\.(png|jpe?g|webp|gif|bmp|avif|tiff?|heic)$", first, re.IGNORECASE)
    return first if image or re.match(r"/[^/]+/|file://", first) else None


def _nearest(word: str, names: Iterable[str]) -> str:
    """The start of a hint: the name most like the word, or nothing."""
    close = difflib.get_close_matches(word, list(names), 1, 0.5)
    return f"did you mean {close[0]}? " if close else ""


def _path(text: str) -> Path:
    """The path that a text means, in quotes or with ~ too; it need not exist."""
    try:
        words = shlex.split(text)
    except ValueError:  # an unbalanced quote is part of the name
        words = []
    return Path(os.path.expanduser(words[0] if len(words) == 1 else text))


def _image(argument: str, session: Session) -> Outcome:
    from vlmchat.images import find_path

    text = argument.strip()
    if not text:
        return Say(f"image: {reports.current(session)}")
    if text.lower() == "none":
        session.drop_image()
        return Say("no image now")
    if text.isascii() and text.isdigit():
        session.select(int(text))
        return Say(reports.current(session))
    return Say(_load(find_path(text) or _path(text), session))


def _images(_: str, session: Session) -> Outcome:
    return Say(reports.pictures(session))


def _ask(argument: str, session: Session) -> Outcome:
    text = argument.strip()
    return Ask(session.prompt_for(text), text)


def _caption(argument: str, _: Session) -> Outcome:
    from vlmchat.tasks import caption

    language = argument.strip() or "en"
    if not re.fullmatch("[A-Za-z]{2,3}(-[A-Za-z]{2,4})?", language):
        raise CommandError(f"{language} is no language code: try /caption en or /caption de")
    prompt = caption(language)
    return Ask(prompt, f"/caption {argument.strip()}".rstrip())


def _ocr(_: str, session: Session) -> Outcome:
    from vlmchat.tasks import ocr

    return Ask(ocr(), "/ocr")


def _labels(name: str, argument: str) -> list[str]:
    """The things to look for, which stand between semicolons."""
    labels = [" ".join(label.split()) for label in argument.split(";")]
    labels = [label for label in labels if label]
    if not labels:
        raise CommandError(f"{name} needs something to look for: for example {name} cat ; dog")
    return labels


def _detect(argument: str, _: Session) -> Outcome:
    from vlmchat.tasks import detect

    return Ask(detect(_labels("/detect", argument)), f"/detect {argument.strip()}")


def _segment(argument: str, _: Session) -> Outcome:
    from vlmchat.tasks import segment

    return Ask(segment(_labels("/segment", argument)), f"/segment {argument.strip()}")


def _raw(argument: str, _: Session) -> Outcome:
    return Ask(argument, f"/raw {argument}")


def _retry(_: str, session: Session) -> Outcome:
    if session.last_question is None:
        raise CommandError("there is nothing to ask again: ask something first")
    prompt, line = session.last_question
    return Ask(prompt, line)


def _set(argument: str, session: Session) -> Outcome:
    text = argument.strip()
    if not text:
        return Say(reports.settings(session.settings))
    name, has_value, value = re.match(r"([^\s=]*)\s*([=\s]?)\s*(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    wanted = name.lower().replace("_", "-")
    setting = next((each for each in SETTINGS if each.name == wanted), None)
    if setting is None:
        nearest = _nearest(wanted, (each.name for each in SETTINGS))
        raise CommandError(f"there is no setting {name}: {nearest}/set shows them all")
    if has_value:
        session.settings = change(setting, session.settings, value)
    return Say(f"{setting.name} = {setting.read(session.settings)}")


def _show(_: str, session: Session) -> Outcome:
    return Say(reports.show(session))


def _stats(_: str, session: Session) -> Outcome:
    return Say(reports.stats(session))


def _save(argument: str, session: Session) -> Outcome:
    path = _path(argument.strip())
    session.save(path)
    turns = len(session.turns)
    return Say(f"saved {turns} answer{'' if turns == 1 else 's'} to {path}")


def _clear(_: str, session: Session) -> Outcome:
    session.clear()
    return Say("the conversation is forgotten; images and settings stay")


def _quit(_: str, session: Session) -> Outcome:
    return Quit()


def _help(argument: str, session: Session) -> Outcome:
    name = argument.strip()
    if not name:
        rows = [(command.usage, command.help) for command in COMMANDS]
        return Say(f"{reports.columns(rows)}\n{HELP_END}")
    command = find(name)
    if command is None:
        names = [name for command in COMMANDS for name in command.names]
        nearest = _nearest("/" + name.lower().removeprefix("/"), names)
        raise CommandError(f"there is no command {name}: {nearest}/help lists them all")
    also = f"\nalso: {', '.join(command.names[1:])}" if command.names[1:] else ""
    return Say(f"{command.usage}{also}\n{command.help}\n\n{command.more}")


HELP_END = """\
Any other line is a question about the image. The path of an image loads it.
Ctrl-C stops an answer, Ctrl-D leaves. /help COMMAND tells more, with an example."""

COMMANDS: tuple[Command, ...] = (
    Command(
        ("/image", "/load"),
        "[PATH | NUMBER | none]",
        "load an image, or go back to one",
        "Without anything after it, says which image questions are about. Quotes, ~, escapes\n"
        "and file:// are understood. Nothing is asked until you ask.\n"
        "Example: /image ~/photos/cat.png     /image 1     /image none",
        _image,
        "image",
    ),
    Command(
        ("/images",),
        "",
        "list the loaded images",
        "The star marks the current one; /image with a number goes back to one.\nExample: /images",
        _images,
    ),
    Command(
        ("/ask",),
        "TEXT",
        'ask, also what begins with "/" or a file name',
        "The same as typing TEXT, except that it is never taken for a command or a path.\n"
        "Example: /ask /etc/hosts is what kind of file ?",
        _ask,
    ),
    Command(
        ("/caption",),
        "[LANG]",
        "describe the image in a sentence",
        "LANG is a language code, en where it is left out.\nExample: /caption de",
        _caption,
    ),
    Command(
        ("/ocr",),
        "",
        "read the text in the image",
        "The words come in reading order.\nExample: /ocr",
        _ocr,
    ),
    Command(
        ("/detect",),
        "A ; B",
        "find things: a box for each",
        "Names of things, with semicolons between them. Boxes are in pixels of the image.\n"
        "Example: /detect cat ; red car",
        _detect,
    ),
    Command(
        ("/segment",),
        "A ; B",
        "find things: a box and an outline for each",
        "Names of things, with semicolons between them.\nExample: /segment cat ; red car",
        _segment,
    ),
    Command(
        ("/raw",),
        "TEXT",
        "send TEXT with nothing around it",
        "A plain question is put into the template (see /help set); this one is not.\n"
        "Example: /raw caption es",
        _raw,
    ),
    Command(
        ("/retry",),
        "",
        "ask the last question again",
        "It is asked about the current image, with the current settings.\nExample: /retry",
        _retry,
    ),
    Command(
        ("/set",),
        "[NAME VALUE]",
        "show or change settings",
        "NAME VALUE and NAME=VALUE both work; NAME alone shows it; nothing shows them all.\n"
        "Example: /set temperature 0.7     /set seed random     /set template {question}",
        _set,
        "setting",
    ),
    Command(
        ("/show",),
        "",
        "model, device, memory, image and cache",
        "What is kept of an image makes the next question about it start sooner.\nExample: /show",
        _show,
    ),
    Command(
        ("/stats",),
        "",
        "timing of the last answer",
        "Reused tokens came from the cache, computed ones cost time.\nExample: /stats",
        _stats,
    ),
    Command(
        ("/save",),
        "FILE",
        "save the conversation: .md, .json or .jsonl",
        "The ending of the name says the format; a file of that name is replaced.\n"
        "Example: /save cats.md",
        _save,
        "file",
    ),
    Command(
        ("/clear",),
        "",
        "forget the conversation",
        "Images and settings stay.\nExample: /clear",
        _clear,
    ),
    Command(
        ("/help", "/?"),
        "[COMMAND]",
        "this list, or more about one command",
        "Example: /help detect",
        _help,
        "command",
    ),
    Command(
        ("/quit", "/exit", "/bye"),
        "",
        "leave",
        "Ctrl-D on an empty line does the same.\nExample: /quit",
        _quit,
    ),
)
