"""What a typed line means: one table of commands, and `run`, which turns a line into an outcome.

Nothing here prints or generates: the front end shows a Say, streams an Ask, and leaves on Quit.
The list of `/help`, the completion of the line editor and the dispatch all come from the table.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vlmchat.terminal import actions, insight, reports
from vlmchat.terminal.outcomes import Ask, CommandError, Outcome, Quit, Say

if TYPE_CHECKING:
    from vlmchat.session import Session

__all__ = [
    "COMMANDS",
    "Ask",
    "Command",
    "CommandError",
    "Outcome",
    "Quit",
    "Say",
    "find",
    "only_asks",
    "run",
]


@dataclass(frozen=True)
class Command:
    """A row of the table.

    `hint` shows the argument: empty where there is none, in brackets where it may be left out.
    `completes` tells the line editor what the argument is: an "image", a "file", a "setting" or
    a "command"; empty for free text. `asks` marks those that make a question and change nothing.
    """

    names: tuple[str, ...]
    hint: str
    help: str
    more: str
    act: Callable[[str, Session], Outcome]
    completes: str = ""
    asks: bool = False

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
    typed = re.match(r"\s*(/\S*)(?:\s(.*))?", line.rstrip("\r\n"), re.DOTALL)
    command = find(typed[1]) if typed else None
    if typed and command:
        return _act(command, typed[2] or "", session)
    return _image_line(text, session) or _question(text, session)


def only_asks(line: str) -> bool:
    """Whether a line is a question and nothing else: carried out, it would change nothing."""
    text = line.strip()
    if text.startswith("/"):
        command = find(text.split()[0])
        return command is not None and command.asks
    return bool(text) and not _path_like(text) and _file_and_rest(text) is None


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
    found = _file_and_rest(text)
    if found is None:
        return None
    path, rest = found
    notice = actions.load_image(path, session)
    outcome = run(rest, session)
    if isinstance(outcome, Ask):
        return replace(outcome, notice="\n".join(filter(None, (notice, outcome.notice))))
    if isinstance(outcome, Say):
        return Say(f"{notice}\n{outcome.text}")
    return outcome or Say(notice)


def _question(text: str, session: Session) -> Ask:
    """A line that is a question, unless it reads as a command or as a file that is not there."""
    missing = _path_like(text).strip("'\"")
    if missing:
        session.fail_image(missing)
        raise CommandError(
            f"there is no image file {missing}: check the path, or send it as text with /ask {text}"
        )
    if text.startswith("/"):
        name = text.split()[0]
        raise CommandError(
            f"there is no command {name}: {_nearest(name)}/help lists them all,"
            f" and /ask {text} sends it as text"
        )
    return Ask(session.prompt_for(text), text)


def _file_and_rest(text: str) -> tuple[Path, str] | None:
    """The file that a line begins with and what follows it; None where there is no such file.

    A path that cannot be mistaken for words counts without an image's suffix too, since loading it
    says best what is wrong with it.
    """
    from vlmchat.images import find_path, split_path

    typed = _path_like(text)
    path = find_path(typed) if typed else None
    return split_path(text) or (None if path is None else (path, text[len(typed) :].strip()))


def _path_like(text: str) -> str:
    """What a line begins with, as typed, if that reads as the path of a file; else nothing."""
    first = re.match(r"""(['"])(.+?)\1|((?:\\.|\S)+)""", text)
    if first is None:
        return ""
    name = first[2] or first[3]
    image = re.search(r"\.(png|jpe?g|webp|gif|bmp|avif|tiff?|hei[cf])$", name, re.IGNORECASE)
    return first[0] if image or re.match(r"(~|\.\.?)/|/[^/]+/|file://", name) else ""


def _nearest(name: str) -> str:
    """The hint at the command that an unknown name may mean."""
    names = [known for command in COMMANDS for known in command.names if known != "/?"]
    return actions.nearest("/" + name.lower().removeprefix("/"), names)


def _help(argument: str, session: Session) -> Outcome:
    """`/help [COMMAND]`"""
    name = argument.strip()
    if not name:
        rows = [(command.usage, command.help) for command in COMMANDS]
        return Say(f"{reports.columns(rows)}\n{HELP_END}")
    command = find(name)
    if command is None:
        raise CommandError(f"there is no command {name}: {_nearest(name)}/help lists them all")
    also = f"\nalso: {', '.join(command.names[1:])}" if command.names[1:] else ""
    return Say(f"{command.usage}{also}\n{command.help}\n\n{command.more}")


HELP_END = """\
Any other line is a question about the image. The path of an image loads it.
Ctrl-C stops an answer, Ctrl-D leaves. /help COMMAND gives an example."""

COMMANDS: tuple[Command, ...] = (
    Command(
        ("/image", "/load"),
        "[PATH | NUMBER | none]",
        "load an image, or go back to one",
        "Alone, it says which image questions are about. Quotes, ~, escapes and file://\n"
        "are understood. Loading asks nothing.\n"
        "Example: /image ~/photos/cat.png     /image 1     /image none",
        actions.image,
        "image",
    ),
    Command(
        ("/images",),
        "",
        "list the loaded images",
        "The star marks the current one; /image with a number goes back to one.\nExample: /images",
        actions.images,
    ),
    Command(
        ("/paste",),
        "",
        "load the image that was copied last",
        "On Linux this needs wl-paste or xclip.\nExample: /paste",
        insight.paste,
    ),
    Command(
        ("/ask",),
        "TEXT",
        'ask, also what begins with "/" or a file name',
        "The same as typing TEXT, except that it is never taken for a command or a path.\n"
        "Example: /ask /etc/hosts is what kind of file ?",
        actions.ask,
        asks=True,
    ),
    Command(
        ("/caption",),
        "[LANG]",
        "describe the image in a sentence",
        "LANG is a language code, en where it is left out.\nExample: /caption de",
        actions.caption,
        asks=True,
    ),
    Command(
        ("/ocr",),
        "",
        "read the text in the image",
        "The words come in reading order.\nExample: /ocr",
        actions.ocr,
        asks=True,
    ),
    Command(
        ("/detect",),
        "A ; B",
        "find things: a box for each",
        "Names of things, with semicolons between them. Boxes are in pixels of the image.\n"
        "Example: /detect cat ; red car",
        actions.detect,
        asks=True,
    ),
    Command(
        ("/segment",),
        "A ; B",
        "find things: a box and an outline for each",
        "Names of things, with semicolons between them. Outlines need the mask decoder\n"
        "(--mask-decoder FILE); without it there are boxes.\nExample: /segment cat ; red car",
        actions.segment,
        asks=True,
    ),
    Command(
        ("/raw",),
        "TEXT",
        "send TEXT with nothing around it",
        "A plain question is put into the template (see /help set); this one is not.\n"
        "Example: /raw caption es",
        actions.raw,
        asks=True,
    ),
    Command(
        ("/look",),
        "[WORD] [layer N]",
        "where it looked while it answered",
        "The picture is bright where the model's attention went, averaged over heads: for\n"
        "the whole answer or a word of it, over all layers or in one. /save look.png\n"
        "keeps it.\n"
        "Example: /look     /look red     /look red layer 3",
        insight.look,
    ),
    Command(
        ("/why",),
        "",
        "how sure it was of each token",
        "And what else might have come in its place. The probabilities are the model's\n"
        "own, before temperature.\nExample: /why",
        insight.why,
    ),
    Command(
        ("/retry",),
        "",
        "ask the last question again",
        "It is asked about the current image, with the current settings.\nExample: /retry",
        actions.retry,
    ),
    Command(
        ("/set",),
        "[NAME VALUE]",
        "show or change settings",
        "NAME VALUE or NAME=VALUE changes one, NAME alone shows it, /set shows them all.\n"
        "Example: /set temperature 0.7     /set seed random     /set template {question}",
        actions.set_,
        "setting",
    ),
    Command(
        ("/show",),
        "",
        "model, device, memory, image and cache",
        "What is kept of an image makes the next question about it start sooner.\nExample: /show",
        actions.show,
    ),
    Command(
        ("/stats",),
        "",
        "timing of the last answer",
        "Reused tokens came from the cache, computed ones cost time.\nExample: /stats",
        actions.stats,
    ),
    Command(
        ("/save",),
        "FILE",
        "save the conversation, or the picture",
        "The ending of the name says which: .md, .json and .jsonl are the conversation,\n"
        ".png and .jpg the picture that was shown last with boxes or by /look, at its\n"
        "full size. A file of that name is replaced.\n"
        "Example: /save cats.md     /save boxes.png",
        actions.save,
        "file",
    ),
    Command(
        ("/clear",),
        "",
        "forget the conversation",
        "Images and settings stay.\nExample: /clear",
        actions.clear,
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
        actions.leave,
    ),
)
