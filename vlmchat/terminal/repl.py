"""The chat: read a line, carry it out, show what comes of it, until the person leaves.

The line editor owns the terminal while a line is read, and the screen owns it while an answer is
written; `run` hands it back and forth.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from vlmchat.background import LoadError, end
from vlmchat.terminal import reports
from vlmchat.terminal.batch import LOOK_EVERY, Done, carry_out
from vlmchat.terminal.editor import open_editor
from vlmchat.terminal.tracked import show_news

if TYPE_CHECKING:
    from prompt_toolkit.input import Input
    from prompt_toolkit.output import Output

    from vlmchat.session import Session, Turn
    from vlmchat.terminal.editor import Editor
    from vlmchat.terminal.render import Screen

INTERRUPTED = 130
TWICE_WITHIN = 2.0  # seconds between the two Ctrl-C that leave
SAMPLE = Path(__file__).parents[1] / "demo" / "sample.png"
TRY = '"what is this?"'
LEAVE = "to leave, press Ctrl-D, or Ctrl-C once more"


def run(
    session: Session, screen: Screen, input: Input | None = None, output: Output | None = None
) -> int:
    """Chat until the person leaves: 0 for Ctrl-D and `/quit`, 130 for Ctrl-C twice.

    The model may still be loading: only what needs it waits. If the load fails, what it failed with
    is raised, whatever goes on here by then. `input` and `output` are for tests, which type and
    look without a terminal.
    """
    greet(session, screen)
    editor = open_editor(screen, lambda: reports.status(session), input, output)
    if session.loading is not None:
        session.loading.when_failed(editor.interrupt)
        session.loading.start()  # now, so that it does not hold up the first prompt
    warmer = Warmer(session)
    try:
        return _chat(session, screen, editor, warmer)
    except LoadError as failure:
        raise failure.reason from None
    finally:
        warmer.stop()


def _chat(session: Session, screen: Screen, editor: Editor, warmer: Warmer) -> int:
    """The loop. A Ctrl-C that comes between reading and answering counts as one at the prompt."""
    last_ctrl_c = -math.inf
    unseen = session.loading is not None  # what there is to know of the model comes with it
    while True:
        try:
            _check_load(session)
            if unseen and session.loading is None:
                unseen = False
                show_notices(session, screen)
            warmer.start()
            session.tracker.idle()
            show_news(session, screen)
            line = editor.read()
            last_ctrl_c = -math.inf
            if _line(line, session, screen) is Done.QUIT:
                return 0
        except EOFError:
            return 0
        except KeyboardInterrupt:
            _check_load(session)
            now = time.monotonic()
            if now - last_ctrl_c < TWICE_WITHIN:
                return INTERRUPTED
            last_ctrl_c = now
            screen.notice(LEAVE)


def _check_load(session: Session) -> None:
    """Raise LoadError if the model could not be loaded."""
    if session.loading is not None and session.loading.has_failed:
        session.loading.result()


def show_notices(session: Session, screen: Screen) -> None:
    """Show what a person should know of the model, which is there."""
    assert session.engine is not None  # brings the notices with it
    for notice in session.notices:
        screen.notice(notice)


def _line(line: str, session: Session, screen: Screen) -> Done:
    """Carry out one line, which Ctrl-C may stop, and add what the chat shows below an answer."""
    before = session.turns[-1:]
    try:
        with CtrlC() as ctrl_c:
            done = carry_out(line, session, screen, ctrl_c.cancelled)
    except KeyboardInterrupt:
        screen.notice("[stopped]")
        return Done.BADLY
    after = session.turns[-1:]
    if after and after != before:
        _below(after[0], screen)
    return done


def _below(turn: Turn, screen: Screen) -> None:
    """What follows an answer: that it was stopped."""
    if turn.reply.finish_reason == "cancelled":
        screen.notice("[stopped]")


def greet(session: Session, screen: Screen) -> None:
    """Two lines, and the picture that questions are about: which model this is, what to type.

    The demo model brings a picture of its own, so that there is something to ask about.
    """
    from vlmchat.overlay import plain

    if session.model_name == "demo":
        what = "demo model" if session.loading is None else "demo model (loading)"
        screen.notice(f"{what}: it is small and knows drawn shapes (see --model-path)")
        if session.current is None and SAMPLE.is_file():
            session.add_image(SAMPLE)
    elif session.loading is not None:
        screen.notice(reports.model(session))
    else:
        engine = session.engine
        dtype = str(engine.dtype).removeprefix("torch.")
        screen.notice(f"{session.model_name} ({dtype} on {engine.device})")
    picture = session.current
    if picture is None:
        screen.notice("/image PATH loads an image, then ask about it; /help lists the commands")
        return
    screen.scene(plain(picture.image))
    width, height = picture.size
    tip = f": try {TRY}" if session.model_name == "demo" else ""
    screen.notice(f"ask about {picture.name} ({width}x{height}){tip}; /help says more")


class CtrlC:
    """What Ctrl-C does while one line is carried out.

    Up to the first token it raises KeyboardInterrupt: loading and prefill stop at once. From then
    on (whoever makes tokens reads `cancelled` between them) the first press ends the answer
    properly and the second raises. Elsewhere than in the main thread it does nothing.
    """

    def __init__(self) -> None:
        self._watched = self._pressed = False
        self._previous: Any = None

    def cancelled(self) -> bool:
        """Whether Ctrl-C was pressed; reading it says that somebody will read it again."""
        self._watched = True
        return self._pressed

    def __enter__(self) -> CtrlC:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _press(self, number: int, frame: FrameType | None) -> None:
        if self._pressed or not self._watched:
            raise KeyboardInterrupt
        self._pressed = True


class Warmer:
    """Looks at a new image while the person still types the question about it.

    An error here is not shown: the question computes the same, meets the same error and shows it.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._key: str | None = None
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin, if another image has become current since the last call."""
        picture = self._session.current
        if picture is not None and picture.key != self._key:
            thread = threading.Thread(target=self._warm, daemon=True)
            self._threads = [each for each in self._threads if each.is_alive()] + [thread]
            thread.start()
        self._key = None if picture is None else picture.key

    def _warm(self) -> None:
        loading = self._session.loading
        with suppress(Exception, SystemExit):
            while loading is not None and not loading.is_over:
                loading.wait(LOOK_EVERY)
            self._session.warm()

    def stop(self) -> None:
        """End what still runs, and wait for it."""
        for thread in self._threads:
            end(thread)
