"""The command line: flags become objects, objects a chat, a pipe or answers; returns the exit code.

Only click is imported here. Whatever is heavier waits until the flags are known to be right.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from vlmchat.errors import UserError
from vlmchat.options import Options, parse

if TYPE_CHECKING:
    from vlmchat.sampling import Sampling
    from vlmchat.session import Session
    from vlmchat.terminal.lines import Lines
    from vlmchat.terminal.render import OutputError, Screen

FAILED, USAGE, INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program with these arguments (None: those it was started with); the exit code."""
    try:
        options = parse(argv)
    except click.UsageError as error:
        return _wrong(error)
    except click.Abort:  # click's word for Ctrl-C
        return INTERRUPTED
    return options if isinstance(options, int) else _run(options)


def _wrong(error: click.UsageError) -> int:
    """Say in one line what is wrong with the command line."""
    what = error.format_message().rstrip(".")
    _screen(color=False).error(f"{what[:1].lower()}{what[1:]}: see vlmchat --help")
    return USAGE


def _screen(**how: Any) -> Screen:
    from vlmchat.terminal.render import Screen

    # Python has None for a stream that was closed when the program started.
    return Screen(sys.stdout or io.StringIO(), sys.stderr or io.StringIO(), **how)


def _run(options: Options) -> int:
    from vlmchat.terminal.render import OutputError

    screen = _screen(
        as_json=options.json,
        color=not options.no_color,
        quiet=options.quiet,
        verbose=options.verbose,
        graphics=options.graphics,
    )
    try:
        return _start(options, screen)
    except UserError as error:
        screen.error(str(error), error)
        return FAILED
    except KeyboardInterrupt:
        return _interrupted()
    except OutputError as error:
        return _give_up_output(error, screen)


def _interrupted() -> int:
    """The exit code; ends the program at once where Python would wait for a download's threads.

    What has come of its files stays in the cache, and the next download goes on there.
    """
    download = sys.modules.get("vlmchat.download")
    if download is not None and download.is_running():
        os._exit(INTERRUPTED)
    return INTERRUPTED


def _start(options: Options, screen: Screen) -> int:
    """Load what the options name, and answer under the eyes of a tracker, if one is wanted."""
    from vlmchat.terminal.tracked import file_by_hand, tracked

    if options.track_import:
        return file_by_hand(Path(options.track_import), screen)
    with _session(options, screen) as session:
        images = [_add_image(path, session) for path in options.image]
        if images:
            session.select(images[0])
        for notice in session.notices:
            screen.notice(notice)
        with tracked(session, options.track, screen):
            return _answer(options, images, session, screen)


def _answer(options: Options, images: Sequence[int], session: Session, screen: Screen) -> int:
    """Do what the options and the streams allow: answer questions, a pipe's lines, or chat."""
    from vlmchat.terminal import batch

    if options.ask:
        return batch.run_each(options.ask, images, session, screen, options.batch_size)
    if sys.stdin is None:
        return 0
    if not _chats(options, screen):
        lines = _piped(sys.stdin, screen)
        return batch.run(lines, session, screen, options.batch_size, lines.ready)
    from vlmchat.terminal import repl

    return repl.run(session, screen)


def _chats(options: Options, screen: Screen) -> bool:
    """Whether a person sits at both ends, who was not told to be answered at once."""
    if options.ask or sys.stdin is None:
        return False
    return sys.stdin.isatty() and screen.out.isatty()


@contextmanager
def _session(options: Options, screen: Screen) -> Iterator[Session]:
    """The model that the options name, in a session; that of a chat is loaded by the chat."""
    if not _chats(options, screen):
        with screen.loading("loading the model") as progress:
            session = _load(options, options.model_path, progress)
        yield session
        return
    from vlmchat.background import Loading
    from vlmchat.session import Session, Settings

    folder = _folder(options, screen)
    loading = Loading(lambda progress: _load(options, folder, progress))
    settings = Settings(sampling=_sampling(options), prefix_cache=options.prefix_cache)
    try:
        yield Session(loading, settings, model_name=options.model_path or "demo")
    finally:
        with screen.waiting("leaving"):
            loading.stop()


def _folder(options: Options, screen: Screen) -> Path | None:
    """Where the model is, downloaded if need be: a chat does not begin beside download bars."""
    if options.model_path is None:
        return None
    from vlmchat import hub

    with screen.loading("looking for the model") as progress:
        return hub.resolve(options.model_path, progress=progress)


def _load(
    options: Options, path: str | Path | None, progress: Callable[[int, int], None] | None
) -> Session:
    """The model at `path`, in a session that asks as the options say."""
    import vlmchat

    return vlmchat.load(
        path,
        device=options.device,
        dtype=options.dtype,
        quantize=options.quantize,
        prefix_cache=options.prefix_cache,
        sampling=_sampling(options),
        mask_decoder=options.mask_decoder,
        compile=options.compile,
        progress=progress,
    )


def _sampling(options: Options) -> Sampling:
    import vlmchat

    return vlmchat.Sampling(
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        max_tokens=options.max_tokens,
        seed=options.seed,
    )


def _add_image(path: str, session: Session) -> int:
    """Load one `--image`; its number."""
    from vlmchat.images import MAX_FILE_BYTES, find_path

    if path == "-":
        return session.add_image(sys.stdin.buffer.read(MAX_FILE_BYTES + 1), "stdin")
    return session.add_image(find_path(path) or Path(path))


def _piped(stdin: TextIO, screen: Screen) -> Lines:
    """The lines of stdin as they come."""
    from vlmchat.terminal.lines import Lines

    if stdin.isatty():
        screen.notice("type questions, one a line; Ctrl-D ends")
    return Lines(stdin)


def _give_up_output(error: OutputError, screen: Screen) -> int:
    """End after a write that failed: quietly where the reader has left, else with one line.

    Both streams go to the null device, or Python would try the same bytes again on its way out
    and complain of them.
    """
    from vlmchat.terminal.render import OutputError

    with suppress(OutputError):
        if not error.closed:
            screen.error(str(error), error)
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (screen.out, screen.err):
        with suppress(OSError):
            os.dup2(null, stream.fileno())
    os.close(null)
    return 0 if error.closed else FAILED
