"""What the commands tell: plain text in aligned columns, from what a session knows."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from vlmchat.terminal.settings import SETTINGS
from vlmchat.transcript import pixel_boxes

if TYPE_CHECKING:
    from vlmchat.images import Picture
    from vlmchat.prefix import Kept
    from vlmchat.session import Session, Settings, Turn


def columns(rows: Iterable[tuple[str, str]], gap: int = 2) -> str:
    """Two columns, the second aligned behind the longest entry of the first."""
    rows = list(rows)
    width = max(len(left) for left, _ in rows) + gap
    return "\n".join(f"{left:<{width}}{right}".rstrip() for left, right in rows)


def picture(number: int, shown: Picture) -> str:
    """One loaded image: `[2] cat.png 640x480 (first of 12 frames)`."""
    width, height = shown.size
    note = f" ({shown.note})" if shown.note else ""
    return f"[{number}] {shown.name} {width}x{height}{note}"


def current(session: Session) -> str:
    """The image that questions are about, or why there is none."""
    if session.failed is not None:
        return f"none: {session.failed} could not be loaded"
    if session.current is None:
        return "none"
    current = session.current
    number = next(n for n, each in enumerate(session.pictures, 1) if each is current)
    return picture(number, current)


def pictures(session: Session) -> str:
    """All loaded images, a star before the current one."""
    if not session.pictures:
        return "no images yet: /image PATH loads one"
    return "\n".join(
        f"{'*' if each is session.current else ' '} {picture(number, each)}"
        for number, each in enumerate(session.pictures, 1)
    )


def settings(values: Settings) -> str:
    """Every setting with its value and what it does."""
    read = [setting.read(values) for setting in SETTINGS]
    width = max(len(value) for value in read) + 2
    return columns(
        (setting.name, f"{value:<{width}}{setting.help}")
        for setting, value in zip(SETTINGS, read, strict=True)
    )


def model(session: Session, short: bool = False) -> str:
    """The name of the model, and how far it is loaded if it is not there yet.

    In short, of a folder its own name is enough; a hub id is one with its owner.
    """
    name, loading = session.model_name or "(not named)", session.loading
    if short and name.startswith(("/", ".", "~")):
        name = os.path.basename(os.path.normpath(name))
    if loading is None:
        return name
    done, total = loading.progress
    return f"{name} (loading{f', {done / total:.0%}' if total else ''})"


def show(session: Session) -> str:
    """The model, where it runs, what it weighs, the image and what is kept of it.

    Of a model that is still being loaded there is less to tell.
    """
    rows = [("model", model(session))]
    kept: list[str] = []
    if session.loading is None:
        engine = session.engine
        kept = [_kept(each, session) for each in engine.kept]
        rows += [
            ("parameters", f"{engine.parameters:,}"),
            ("device", str(engine.device)),
            ("dtype", str(engine.dtype).removeprefix("torch.")),
            ("quantize", engine.quantize),
            ("weights", amount(engine.weight_bytes)),
        ]
    rows += [("image", current(session)), ("prefix-cache", session.settings.prefix_cache)]
    rows += [("kept" if row == 0 else "", text) for row, text in enumerate(kept or ["nothing"])]
    rows += [("note", notice) for notice in session.notices]
    return columns(rows)


def status(session: Session) -> str:
    """The one line below the prompt: model, where it runs, image, what is kept of it."""
    parts = [model(session, short=True)]
    if session.loading is None:
        engine = session.engine
        parts.append(f"{engine.device} {str(engine.dtype).removeprefix('torch.')}")
    if session.current is None and session.failed is None:
        parts.append("no image")
    else:
        parts.append(current(session))
    if session.current is not None and session.loading is None:
        parts.append(_prefix_state(session, session.current))
    return " | ".join(parts)


def _prefix_state(session: Session, shown: Picture) -> str:
    """Whether the next question about an image starts from work that is done."""
    mode = session.settings.prefix_cache
    mine = [each.tokens for each in session.engine.kept if each.image == shown.key]
    if mode == "kv" and any(mine):
        return f"kv: {max(mine)} tokens kept"
    return f"{mode}: {'image encoded' if mine else 'nothing kept yet'}"


def _kept(kept: Kept, session: Session) -> str:
    """One kept prefix: whose it is, how long and how large."""
    names = (each.name for each in session.pictures if each.key == kept.image)
    name, words = next(names, "an image"), kept.words.strip()
    what = f"{kept.tokens} tokens" if kept.tokens else "encoded image"
    return f"{name}{f' ({words})' if words else ''}: {what}, {amount(kept.nbytes)}"


def amount(count: int) -> str:
    """A number of bytes in the unit that a person would choose."""
    size, unit = float(count), "bytes"
    for larger in ("KB", "MB", "GB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{count} bytes" if unit == "bytes" else f"{size:.1f} {unit}"


def stats(session: Session) -> str:
    """The timing of the last answer and the tokens that it cost."""
    if not session.turns:
        return "no answer yet: ask something first"
    reply = session.turns[-1].reply
    timing = reply.timing
    return columns(
        [
            ("image", f"{timing.image_s:.3f} s"),
            ("first token", f"{timing.first_token_s:.3f} s"),
            ("total", f"{timing.total_s:.3f} s"),
            ("speed", f"{timing.tokens_per_s:.1f} tokens/s"),
            ("answer", f"{len(reply.token_ids)} tokens, finished: {reply.finish_reason}"),
            ("prefix", f"{reply.prefix_mode}: {reply.reused_tokens} tokens reused,"
                       f" {reply.computed_tokens} computed"),
        ]
    )  # fmt: skip


def boxes(turn: Turn) -> list[str]:
    """One line a box: its number, corners in pixels, how sure the model was, its label.

    The label comes last, where its width puts nothing out of line.
    """
    rows = []
    sure = ["" if value is None else f"{value:.0%}" for value in turn.confidences]
    for (label, box), how in zip(pixel_boxes(turn), sure, strict=True):
        x0, y0, x1, y1 = box
        rows.append((f"({x0}, {y0}) to ({x1}, {y1})", how, label or "(no label)"))
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    number_width = len(str(len(rows)))
    return [
        f"{number:>{number_width}}  {place:<{widths[0]}}  {how:>{widths[1]}}  {label}"
        for number, (place, how, label) in enumerate(rows, 1)
    ]


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]
