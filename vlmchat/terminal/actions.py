"""What each command does: a function of its argument and the session, one a command.

They change the session and say something, or give a prompt to ask; none of them generates.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from vlmchat.terminal import reports
from vlmchat.terminal.outcomes import Ask, CommandError, Outcome, Quit, Say
from vlmchat.terminal.settings import SETTINGS, change

if TYPE_CHECKING:
    from vlmchat.session import Session

WITH_TEMPERATURE = ("top-p", "top-k", "seed")  # settings that greedy answers do not look at


def nearest(word: str, names: Iterable[str]) -> str:
    """The start of a hint: the name most like the word, or nothing."""
    close = difflib.get_close_matches(word, list(names), 1, 0.5)
    return f"did you mean {close[0]}? " if close else ""


def load_image(path: Path, session: Session) -> str:
    """Load an image and make it current; the text that says so. Raises ImageError."""
    number = session.add_image(path)
    return reports.picture(number, session.pictures[number - 1])


def named_path(text: str) -> Path:
    """The path that a text means, in quotes or with ~ too; it need not exist."""
    try:
        words = shlex.split(text)
    except ValueError:  # an unbalanced quote is part of the name
        words = []
    return Path(os.path.expanduser(words[0] if len(words) == 1 else text))


def image(argument: str, session: Session) -> Outcome:
    """`/image PATH | NUMBER | none`; a plain number always means a loaded image."""
    from vlmchat.images import find_path

    text = argument.strip()
    if not text:
        return Say(f"image: {reports.current(session)}")
    if text.lower() == "none":
        session.drop_image()
        return Say("no image now; /image with a number goes back to one")
    if re.fullmatch("[0-9]{1,9}", text):
        session.select(int(text))
        return Say(reports.current(session))
    return Say(load_image(find_path(text) or named_path(text), session))


def images(_: str, session: Session) -> Outcome:
    """`/images`"""
    return Say(reports.pictures(session))


def ask(argument: str, session: Session) -> Outcome:
    """`/ask TEXT`: a question, whatever it looks like."""
    text = argument.strip()
    return Ask(session.prompt_for(text), text)


def caption(argument: str, _: Session) -> Outcome:
    """`/caption [LANG]`"""
    from vlmchat import tasks

    language = argument.strip() or "en"
    if not re.fullmatch("[A-Za-z]{2,3}(-[A-Za-z]{2,4})?", language):
        raise CommandError(f"{language} is not a language code: try /caption en or /caption de")
    return Ask(tasks.caption(language.lower()), f"/caption {argument.strip()}".rstrip())


def ocr(_: str, session: Session) -> Outcome:
    """`/ocr`"""
    from vlmchat import tasks

    return Ask(tasks.ocr(), "/ocr")


def detect(argument: str, _: Session) -> Outcome:
    """`/detect A ; B`"""
    from vlmchat import tasks

    return Ask(tasks.detect(_labels("/detect", argument)), f"/detect {argument.strip()}")


def segment(argument: str, _: Session) -> Outcome:
    """`/segment A ; B`"""
    from vlmchat import tasks

    return Ask(tasks.segment(_labels("/segment", argument)), f"/segment {argument.strip()}")


def _labels(name: str, argument: str) -> list[str]:
    """The things to look for, which stand between semicolons."""
    labels = [" ".join(label.split()) for label in argument.split(";")]
    labels = [label for label in labels if label]
    if not labels:
        raise CommandError(f"{name} needs something to look for: for example {name} cat ; dog")
    return labels


def raw(argument: str, _: Session) -> Outcome:
    """`/raw TEXT`: the very text, its spaces included."""
    return Ask(argument, f"/raw {argument}")


def retry(_: str, session: Session) -> Outcome:
    """`/retry`: the last question, also one that could not be answered."""
    if session.last_question is None:
        raise CommandError("there is nothing to ask again: ask something first")
    prompt, line = session.last_question
    return Ask(prompt, line)


def set_(argument: str, session: Session) -> Outcome:
    """`/set`, `/set NAME`, `/set NAME VALUE`, `/set NAME=VALUE`"""
    text = argument.strip()
    if not text:
        return Say(reports.settings(session.settings))
    name, *value = re.split(r"\s*=\s*|\s+", text, maxsplit=1)
    wanted = name.lower().replace("_", "-")
    setting = next((each for each in SETTINGS if each.name == wanted), None)
    if setting is None:
        hint = nearest(wanted, (each.name for each in SETTINGS))
        raise CommandError(f"there is no setting {name or text}: {hint}/set shows them all")
    if value:
        session.settings = change(setting, session.settings, value[0])
    idle = setting.name in WITH_TEMPERATURE and session.settings.sampling.temperature == 0
    note = " (it counts once temperature is above 0)" if idle and value else ""
    return Say(f"{setting.name} = {setting.read(session.settings)}{note}")


def show(_: str, session: Session) -> Outcome:
    """`/show`"""
    return Say(reports.show(session))


def stats(_: str, session: Session) -> Outcome:
    """`/stats`"""
    return Say(reports.stats(session))


def save(argument: str, session: Session) -> Outcome:
    """`/save FILE`"""
    from vlmchat import views

    path = named_path(argument.strip())
    if path.suffix.lower() in views.SUFFIXES:
        views.save(session, path)
        return Say(f"saved the picture to {path}")
    session.save(path)
    count = len(session.turns)
    return Say(f"saved {count} answer{'' if count == 1 else 's'} to {path}")


def clear(_: str, session: Session) -> Outcome:
    """`/clear`"""
    session.clear()
    return Say("the conversation is forgotten; images and settings stay")


def leave(_: str, session: Session) -> Outcome:
    """`/quit`"""
    return Quit()
