"""Commands that look further: `/look` and `/why` into an answer, `/paste` into the clipboard."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from vlmchat.terminal import reports
from vlmchat.terminal.outcomes import CommandError, Outcome, Say

if TYPE_CHECKING:
    from vlmchat.explain import Choice, Step
    from vlmchat.session import Session

CODE = re.compile(r"<(loc\d{4}|seg\d{3})>", re.ASCII)
ENDS_WITH_LAYER = re.compile(r"(.*?)\s*\blayer\s+([0-9]{1,4})", re.IGNORECASE)


def look(argument: str, session: Session) -> Outcome:
    """`/look [WORD] [layer N]`"""
    from vlmchat import views

    word, layer = argument.strip(), None
    named = ENDS_WITH_LAYER.fullmatch(word)
    if named:
        word, layer = named[1], int(named[2])
    seen = views.look(session, word, layer)
    x, y = seen.peak
    while_writing = f'while it wrote "{word}"' if word else "while it answered"
    where = f"in layer {layer}" if layer else "over all layers"
    text = (
        f"{while_writing}, {where}: {seen.share:.0%} of its attention went to the image,"
        f" most at ({x}, {y}); /save look.png keeps the picture"
    )
    return Say(text, seen.scene)


def why(_: str, session: Session) -> Outcome:
    """`/why`"""
    if not session.turns:
        raise CommandError("no answer yet: ask something first")
    from vlmchat import explain

    turn = session.turns[-1]
    steps = explain.choices(session.engine, turn.picture, turn.reply)
    return Say(reports.columns(_step(step) for step in steps))


def _step(step: Step) -> tuple[str, str]:
    """A token with its probability, and what else might have come in its place."""
    others = "  ".join(_choice(other) for other in step.others)
    return _choice(step.chosen), f"or {others}"


def _choice(choice: Choice) -> str:
    """A token and its probability; words are in quotes, so that their spaces can be seen."""
    bare = choice.text == "(end)" or CODE.fullmatch(choice.text)
    return f"{choice.probability:6.1%} {choice.text if bare else repr(choice.text)}"


def paste(_: str, session: Session) -> Outcome:
    """`/paste`: the image, or the image file, that was copied last."""
    from PIL import Image, ImageGrab

    from vlmchat.terminal.actions import load_image, named_path

    try:
        copied = ImageGrab.grabclipboard()
    except (OSError, NotImplementedError, ChildProcessError) as error:
        raise CommandError(
            f"the clipboard cannot be read ({reports.first_line(error)}):"
            " save the image and load it with /image"
        ) from error
    if isinstance(copied, Image.Image):
        file = io.BytesIO()
        copied.save(file, "PNG")
        number = session.add_image(file.getvalue(), "clipboard")
        return Say(reports.picture(number, session.pictures[number - 1]))
    if copied:
        return Say(load_image(named_path(str(copied[0])), session))
    raise CommandError("there is no image in the clipboard: copy one first")
