"""The flags: what the command line may hold, checked before anything heavy is imported."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from vlmchat.engine import PrefixMode
    from vlmchat.packing import Quantize

EPILOG = """\
With a terminal on both ends, vlmchat chats. With a pipe or file on stdin it answers each line;
typed lines are answered the same way, without a prompt, when only stdout is redirected. With
--ask it reads no lines at all. With --batch-size, questions that follow one another are answered
together, in order; a pipe is not waited for, so that a batch is what it holds by then.

Every option can be set by an environment variable: --max-tokens by VLMCHAT_MAX_TOKENS. Several
images go into VLMCHAT_IMAGE as folders into PATH, several questions into VLMCHAT_ASK one a line.
VLMCHAT_HISTORY names the file for the lines typed in the chat; empty, they are not kept.
VLMCHAT_WEIGHT_CACHE names the folder for quantised weights, likewise.

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
    quantize: Quantize
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int | None
    prefix_cache: PrefixMode
    batch_size: int
    graphics: str
    mask_decoder: str | None
    compile: bool
    track: bool | None
    track_import: str | None
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
    "--quantize",
    default="none",
    show_default=True,
    type=click.Choice(["none", "int8", "int4"]),
    help="Keep the decoder's weights in 8 or 4 bits: less memory, faster answers.",
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
@click.option(
    "--batch-size",
    metavar="N",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Answer this many questions about an image together, from a pipe or --ask.",
)
@click.option(
    "--graphics",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "blocks", "kitty", "iterm2", "sixel", "off"]),
    help="How pictures are drawn in the terminal.",
)
@click.option(
    "--mask-decoder",
    metavar="PATH",
    help="File that turns segment's codes into masks. [vae-oid.npz beside the checkpoint]",
)
@click.option("--compile", is_flag=True, help="Compile what is slow; needs a C or C++ compiler.")
@click.option(
    "--track/--no-track",
    default=None,
    help="Record the answers with Comet. [on when Comet is configured]",
)
@click.option(
    "--track-import",
    metavar="PATH",
    help="File a journal, or a folder of them, with Comet and end.",
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
def _command(**given: Any) -> Options:
    """Ask vision-language models about images."""
    return Options(**given)


def parse(argv: Sequence[str] | None) -> Options | int:
    """The options on a command line (None: the program's own), or the exit code of `--help`.

    Raises click.UsageError where the command line or a variable of the environment is wrong.
    """
    options = _command.main(
        argv, prog_name="vlmchat", standalone_mode=False, auto_envvar_prefix="VLMCHAT"
    )
    if not isinstance(options, Options):  # --help or --version has been answered
        return int(options)
    if "-" in options.image:
        _check_stdin(options)
    return options


def _check_stdin(options: Options) -> None:
    """Refuse to read an image from a stdin that is needed for lines, or that is a keyboard."""
    if not options.ask:
        raise click.UsageError("--image - reads the image from stdin. Give the question with --ask")
    if sys.stdin is None or sys.stdin.isatty():
        raise click.UsageError("--image - has nothing to read. Redirect an image file to stdin")
