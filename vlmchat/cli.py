"""The command line: flags become objects, objects a chat, a pipe or answers; returns the exit code.

Only click is imported here. Whatever is heavier waits until the flags are known to be right.
"""

from __future__ import annotations

import io
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from vlmchat.errors import UserError

if TYPE_CHECKING:
    from vlmchat.session import Session
    from vlmchat.terminal.render import OutputError, Screen

FAILED, USAGE, INTERRUPTED = 1, 2, 130
MAX_STDIN_BYTES = 2**27  # of an image; one that is larger is refused as damaged

EPILOG = """\
With a terminal on both ends, vlmchat chats. With a pipe or file on stdin it answers each line;
typed lines are answered the same way, without a prompt, when only stdout is redirected. With
--ask it reads no lines at all.

Every option can be set by an environment variable: --max-tokens by VLMCHAT_MAX_TOKENS. Several
images go into VLMCHAT_IMAGE as folders into PATH, several questions into VLMCHAT_ASK one a line.
VLMCHAT_HISTORY names the file for the lines typed in the chat; empty, they are not kept.

Exit codes: 0 all lines answered, 1 something could not be loaded or answered, 2 the command line
is wrong, 130 interrupted.
"""


@dataclass(frozen=True)
class Options:
    """The command line, checked."""

    model_path: str | None
    image: tuple[str, ...]
    ask: tuple[str, ...]
    device: str
    dtype: str
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int | None
    prefix_cache: Any
    json: bool
    no_color: bool
    quiet: bool
    verbose: bool


class _Questions(click.types.StringParamType):
    """Texts; in an environment variable each stands on a line of its own."""

    envvar_list_splitter = "\n"


def _known_device(_: click.Context, __: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", value):
        raise click.BadParameter(f"{value!r} is none of auto, cpu, cuda, cuda:N, mps.")
    return value


def _finite(_: click.Context, __: click.Parameter, value: float) -> float:
    if not math.isfinite(value):
        raise click.BadParameter("it must be a finite number.")
    return value


def _one_stdin(_: click.Context, __: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    if value.count("-") > 1:
        raise click.BadParameter("stdin (-) can be read only once.")
    return value


def _show_version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        from importlib.metadata import PackageNotFoundError, version

        try:
            number = version("vlmchat")
        except PackageNotFoundError:
            number = "(run from its source folder)"
        click.echo(f"vlmchat {number}")
        context.exit()


@click.command(epilog=EPILOG)
@click.option("--model-path", metavar="PATH", help="Checkpoint folder or hub id. [the demo model]")
@click.option(
    "--image",
    metavar="PATH",
    multiple=True,
    type=click.Path(),
    callback=_one_stdin,
    help="Image to load, - for stdin; repeatable.",
)
@click.option(
    "--ask",
    metavar="TEXT",
    multiple=True,
    type=_Questions(),
    help="Answer this and end; repeatable, for each image.",
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    callback=_known_device,
    metavar="NAME",
    help="auto, cpu, cuda, cuda:N or mps.",
)
@click.option(
    "--dtype",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    help="auto is what the checkpoint states.",
)
@click.option(
    "--max-tokens",
    metavar="N",
    default=256,
    show_default=True,
    type=click.IntRange(1),
    help="New tokens in an answer, at most.",
)
@click.option(
    "--temperature",
    metavar="F",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0),
    callback=_finite,
    help="0 takes the likeliest token.",
)
@click.option(
    "--top-p",
    metavar="F",
    default=1.0,
    show_default=True,
    callback=_finite,
    type=click.FloatRange(0, 1, min_open=True),
    help="Sample among the likeliest tokens of this share.",
)
@click.option(
    "--top-k",
    metavar="N",
    default=0,
    type=click.IntRange(0),
    help="Sample among this many tokens; 0 is off.",
)
@click.option(
    "--seed", metavar="N", type=click.IntRange(0, 2**63 - 1), help="Sample the same again. [random]"
)
@click.option(
    "--prefix-cache",
    default="kv",
    show_default=True,
    type=click.Choice(["kv", "exact"]),
    help="What is kept of an image: the decoder's work on it, or the encoded image.",
)
@click.option("--json", is_flag=True, help="JSON Lines on stdout, one an answer.")
@click.option("--no-color", is_flag=True, help="No escape sequence on either stream.")
@click.option("--quiet", is_flag=True, help="Only answers and errors.")
@click.option("--verbose", is_flag=True, help="Timing of answers; where errors come from.")
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    allow_from_autoenv=False,
    callback=_show_version,
    help="Show the version and exit.",
)
@click.help_option("-h", "--help", allow_from_autoenv=False)
def _parse(**given: Any) -> Options:
    """Ask vision-language models about images."""
    return Options(**given)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program with these arguments (None: those it was started with); the exit code."""
    try:
        options = _parse.main(
            argv, prog_name="vlmchat", standalone_mode=False, auto_envvar_prefix="VLMCHAT"
        )
        if not isinstance(options, Options):  # --help or --version has been answered
            return int(options)
        _check_stdin(options)
    except click.UsageError as error:
        return _wrong(error)
    except click.Abort:  # click's word for Ctrl-C
        return INTERRUPTED
    return _run(options)


def _check_stdin(options: Options) -> None:
    """Refuse to read the image from a stdin that is needed for lines, or that is a keyboard."""
    if "-" not in options.image:
        return
    if not options.ask:
        raise click.UsageError("--image - reads the image from stdin. Give the question with --ask")
    if sys.stdin is None or sys.stdin.isatty():
        raise click.UsageError("--image - has nothing to read. Redirect an image file to stdin")


def _wrong(error: click.UsageError) -> int:
    """Say in one line what is wrong with the command line."""
    what = error.format_message().rstrip(".")
    _screen(color=False).error(f"{what[:1].lower()}{what[1:]}: see vlmchat --help")
    return USAGE


def _screen(**how: bool) -> Screen:
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
    )
    try:
        return _start(options, screen)
    except UserError as error:
        screen.error(str(error), error)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except OutputError as error:
        return _give_up_output(error, screen)


def _start(options: Options, screen: Screen) -> int:
    """Load what the options name, and do with it what the streams allow."""
    from vlmchat.terminal import batch

    session = _load(options, screen)
    images = [_add_image(path, session) for path in options.image]
    if images:
        session.select(images[0])
    for notice in session.notices:
        screen.notice(notice)
    if options.ask:
        return batch.run_each(options.ask, images, session, screen)
    if sys.stdin is None:
        return 0
    if not (sys.stdin.isatty() and screen.out.isatty()):
        return batch.run(_piped(sys.stdin, screen), session, screen)
    from vlmchat.terminal import repl

    return repl.run(session, screen)


def _load(options: Options, screen: Screen) -> Session:
    """The model that the options name, in a session that asks as they say."""
    with screen.loading("loading the model") as progress:
        import vlmchat

        sampling = vlmchat.Sampling(
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            max_tokens=options.max_tokens,
            seed=options.seed,
        )
        return vlmchat.load(
            options.model_path,
            device=options.device,
            dtype=options.dtype,
            prefix_cache=options.prefix_cache,
            sampling=sampling,
            progress=progress,
        )


def _add_image(path: str, session: Session) -> int:
    """Load one `--image`; its number."""
    if path == "-":
        return session.add_image(sys.stdin.buffer.read(MAX_STDIN_BYTES), "stdin")
    return session.add_image(Path(path))


def _piped(stdin: TextIO, screen: Screen) -> Iterator[str]:
    """The lines of stdin as they come. Bytes that are no text become U+FFFD."""
    if isinstance(stdin, io.TextIOWrapper):
        stdin.reconfigure(errors="replace")
    if stdin.isatty():
        screen.notice("type questions, one a line; Ctrl-D ends")
    yield from stdin


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
