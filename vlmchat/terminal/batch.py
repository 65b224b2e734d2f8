"""Lines in, answers out: what `--ask` and a pipe on stdin do, and what the chat does with a line.

A line that fails says why and ends alone; the others are still answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import TYPE_CHECKING

from vlmchat.terminal import commands, reports
from vlmchat.terminal.outcomes import Ask, Outcome, Quit, Say
from vlmchat.terminal.render import OutputError

if TYPE_CHECKING:
    from vlmchat.engine import Reply
    from vlmchat.images import Picture
    from vlmchat.session import Session
    from vlmchat.terminal.render import Screen


class Done(Enum):
    """How a line ended."""

    WELL = "well"
    BADLY = "badly"
    QUIT = "quit"


def run(lines: Iterable[str], session: Session, screen: Screen) -> int:
    """Carry out all lines, up to a `/quit`; 1 if any of them failed, else 0."""
    code = 0
    for line in lines:
        done = carry_out(line, session, screen)
        if done is Done.QUIT:
            break
        if done is Done.BADLY:
            code = 1
    return code


def run_each(lines: Sequence[str], images: Sequence[int], session: Session, screen: Screen) -> int:
    """Carry out all lines for image after image (by number), or once where there is no image."""
    if not images:
        return run(lines, session, screen)
    code = 0
    for number in images:
        session.select(number)
        code |= run(lines, session, screen)
    return code


def carry_out(
    line: str,
    session: Session,
    screen: Screen,
    cancelled: Callable[[], bool] = lambda: False,
) -> Done:
    """Carry out one line: show what a command says, or stream an answer.

    Errors are shown here, bugs among them, because one line must not cost what is loaded. What
    ends the program passes: OutputError and KeyboardInterrupt.
    """
    prompt = line.strip()
    try:
        before = session.current
        with screen.waiting("working", session.engine.watch):
            outcome = commands.run(line.rstrip("\r\n").replace("\n", " "), session)
        if isinstance(outcome, Quit):
            return Done.QUIT
        if isinstance(outcome, Say):
            screen.say(outcome.text)
        elif isinstance(outcome, Ask) and outcome.notice:
            screen.notice(outcome.notice)
        _show(outcome, before, session, screen)
        if isinstance(outcome, Ask):
            prompt = outcome.prompt
            _answer(outcome, session, screen, cancelled)
    except OutputError:
        raise
    except Exception as error:
        screen.failed(prompt, error)
        return Done.BADLY
    return Done.WELL


def _show(
    outcome: Outcome | None, before: Picture | None, session: Session, screen: Screen
) -> None:
    """Draw what a command drew, or the image that has become current."""
    from vlmchat import overlay

    if isinstance(outcome, Say) and outcome.scene is not None:
        screen.scene(outcome.scene)
    elif session.current is not None and session.current is not before:
        screen.scene(overlay.plain(session.current.image))


def _show_boxes(session: Session, screen: Screen) -> None:
    """The boxes of the last answer, as a table and in the picture."""
    from vlmchat import views

    turn = session.turns[-1]
    if turn.detections:
        scene = views.boxes(turn, session.mask_decoder)
        screen.legend(reports.boxes(turn))
        if scene is not None:
            screen.scene(scene)


def _answer(ask: Ask, session: Session, screen: Screen, cancelled: Callable[[], bool]) -> None:
    """Stream the answer to stdout, and what there is to know about it to stderr."""
    from vlmchat.transcript import record

    stream = session.ask(ask.prompt, ask.line, cancelled)
    if session.current is None:
        screen.notice("there is no image: this is answered from text alone")
        about = "thinking"
    else:
        about = f"looking at {session.current.name}"
    reply = screen.answer(stream, about, session.engine.watch)
    if screen.as_json:
        screen.record(record(session.turns[-1]))
    else:
        _show_boxes(session, screen)
    if reply.finish_reason == "length":
        screen.notice(_cut_short(reply, session.settings.sampling.max_tokens))


def _cut_short(reply: Reply, limit: int) -> str:
    """Why an answer of so many tokens ended early, and what to do about it."""
    tokens = len(reply.token_ids)
    cut = f"[cut after {tokens} token{'' if tokens == 1 else 's'}"
    if tokens < limit:
        return f"{cut}: the model can read no more]"
    return f"{cut}: /set max-tokens N or --max-tokens N allows more]"
