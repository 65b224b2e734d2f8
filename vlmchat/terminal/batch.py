"""Lines in, answers out: what `--ask` and a pipe on stdin do, and what the chat does with a line.

A line that fails says why and ends alone; the others are still answered. Questions that follow one
another may be answered together, in batches; whatever else a line does ends a batch, so that all
comes to pass in the order of the lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from typing import TYPE_CHECKING

from vlmchat.background import LoadError
from vlmchat.terminal import commands, reports
from vlmchat.terminal.outcomes import Ask, Outcome, Quit, Say
from vlmchat.terminal.render import OutputError
from vlmchat.terminal.tracked import keep, show_news

if TYPE_CHECKING:
    from vlmchat.engine import Piece, Reply
    from vlmchat.images import Picture
    from vlmchat.session import Session
    from vlmchat.terminal.render import Screen

    Stream = Iterator[Piece | Reply]


LOOK_EVERY = 0.1  # seconds between two looks at how far a load is


def _always() -> bool:
    """What `ready` answers where lines need no waiting for."""
    return True


class Done(Enum):
    """How a line ended."""

    WELL = "well"
    BADLY = "badly"
    QUIT = "quit"


def run(
    lines: Iterable[str],
    session: Session,
    screen: Screen,
    batch_size: int = 1,
    ready: Callable[[], bool] = _always,
) -> int:
    """Carry out all lines, up to a `/quit`; 1 if any of them failed, else 0.

    Up to `batch_size` questions are answered together. `ready` says whether the next line can be
    had without waiting: a batch is not held up for lines that have yet to come.
    """
    code = 0
    for batch in batches(lines, batch_size, ready):
        for line, asked in zip(batch, _ask_together(batch, session), strict=True):
            done = carry_out(line, session, screen, asked=asked)
            show_news(session, screen)
            if done is Done.QUIT:
                return code
            if done is Done.BADLY:
                code = 1
    return code


def run_each(
    lines: Sequence[str],
    images: Sequence[int],
    session: Session,
    screen: Screen,
    batch_size: int = 1,
) -> int:
    """Carry out all lines for image after image (by number), or once where there is no image."""
    if not images:
        return run(lines, session, screen, batch_size)
    code = 0
    for number in images:
        session.select(number)
        code |= run(lines, session, screen, batch_size)
    return code


def batches(
    lines: Iterable[str], size: int, ready: Callable[[], bool] = _always
) -> Iterator[list[str]]:
    """The lines that are not blank: questions in batches of up to `size`, any other line alone."""
    batch: list[str] = []
    for line in lines:
        if commands.only_asks(_as_one(line)):
            batch.append(line)
        elif line.strip():
            if batch:
                yield batch
            yield [line]
            batch = []
        if batch and (len(batch) == size or not ready()):
            yield batch
            batch = []
    if batch:
        yield batch


def _ask_together(lines: Sequence[str], session: Session) -> list[Stream | None]:
    """Ask the questions of a batch; None for a line that is not one or stands alone."""
    asks = [_asked(line, session) for line in lines] if len(lines) > 1 else []
    if session.failed is not None or len(list(filter(None, asks))) < 2:
        return [None] * len(lines)
    streams = iter(session.ask_together([(each.prompt, each.line) for each in asks if each]))
    return [None if ask is None else next(streams) for ask in asks]


def _asked(line: str, session: Session) -> Ask | None:
    """What a line asks; None where that fails, which `carry_out` will say in its turn."""
    try:
        outcome = commands.run(_as_one(line), session)
    except Exception:
        return None
    return outcome if isinstance(outcome, Ask) else None


def _as_one(line: str) -> str:
    """A line without its end, and a question of several lines as one."""
    return line.rstrip("\r\n").replace("\n", " ")


def carry_out(
    line: str,
    session: Session,
    screen: Screen,
    cancelled: Callable[[], bool] = lambda: False,
    asked: Stream | None = None,
) -> Done:
    """Carry out one line: show what a command says, or stream an answer.

    `asked` is the stream of a question that was asked already, together with others.
    Errors are shown here, bugs among them, because one line must not cost what is loaded. What
    ends the program passes: OutputError, LoadError and KeyboardInterrupt.
    """
    prompt = line.strip()
    try:
        before = session.current
        watch = None if session.loading else session.engine.watch
        with screen.waiting("working", watch):
            outcome = commands.run(_as_one(line), session)
        if isinstance(outcome, Quit):
            return Done.QUIT
        if isinstance(outcome, Say):
            screen.say(outcome.text)
        elif isinstance(outcome, Ask) and outcome.notice:
            screen.notice(outcome.notice)
        _show(outcome, before, session, screen)
        if isinstance(outcome, Ask):
            prompt = outcome.prompt
            _answer(outcome, asked, session, screen, cancelled)
    except (OutputError, LoadError):
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


def _answer(
    ask: Ask,
    asked: Stream | None,
    session: Session,
    screen: Screen,
    cancelled: Callable[[], bool],
) -> None:
    """Stream the answer to stdout, and what there is to know about it to stderr."""
    from vlmchat.transcript import record

    _await_model(session, screen)
    stream = asked or session.ask(ask.prompt, ask.line, cancelled)
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
    if screen.verbose:
        screen.notice(_cost(reply))
    if session.settings.track:
        keep(session)


def _cost(reply: Reply) -> str:
    """The times and tokens of an answer, in a line."""
    timing = reply.timing
    return (
        f"[first token {timing.first_token_s:.2f} s, {timing.tokens_per_s:.1f} tokens/s, "
        f"{reply.reused_tokens} tokens reused, {reply.computed_tokens} computed]"
    )


def _await_model(session: Session, screen: Screen) -> None:
    """Wait for a model that is being loaded, and show how far it is. Raises LoadError."""
    loading = session.loading
    if loading is None:
        return
    with screen.loading("the model is loading, then this is answered") as progress:
        while not loading.is_over:
            loading.wait(LOOK_EVERY)
            if progress is not None and loading.progress[1]:
                progress(*loading.progress)
    loading.result()


def _cut_short(reply: Reply, limit: int) -> str:
    """Why an answer of so many tokens ended early, and what to do about it."""
    tokens = len(reply.token_ids)
    cut = f"[cut after {tokens} token{'' if tokens == 1 else 's'}"
    if tokens < limit:
        return f"{cut}: the model can read no more]"
    return f"{cut}: /set max-tokens N or --max-tokens N allows more]"
