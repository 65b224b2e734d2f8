"""A conversation as text: the JSON object of one answer, Markdown to read, and the saved file."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmchat.errors import UserError

if TYPE_CHECKING:
    from vlmchat.session import Turn

FORMATS = ("md", "json", "jsonl")
ENDINGS = {"length": "(ended at the token limit)", "cancelled": "(stopped by hand)"}


def as_text(turns: Sequence[Turn], form: str, model_name: str = "") -> str:
    """The conversation in one of FORMATS; JSON is plain ASCII, safe to show in any terminal."""
    if form == "md":
        return _markdown(turns, model_name)
    records = [record(turn) for turn in turns]
    if form == "json":
        return json.dumps(records, indent=2, allow_nan=False) + "\n"
    if form == "jsonl":
        return "".join(json.dumps(each, allow_nan=False) + "\n" for each in records)
    raise UserError(f"there is no format {form}: choose one of {', '.join(FORMATS)}")


def write(turns: Sequence[Turn], path: Path, model_name: str = "") -> None:
    """Write the conversation to a file whose suffix names the format, replacing it whole."""
    form = path.suffix.lower().removeprefix(".")
    if form not in FORMATS:
        known = ", ".join("." + each for each in FORMATS)
        raise UserError(f"cannot tell the format of {path}: let the name end in one of {known}")
    if not turns:
        raise UserError("there is nothing to save: ask something first")
    try:
        _replace_file(path, as_text(turns, form, model_name))
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write {path}: {reason}") from error


def _replace_file(path: Path, text: str) -> None:
    """Write beside the wanted file and move it there, so that no half file is ever seen."""
    target = Path(os.path.realpath(path))  # a link keeps pointing at what it points at
    partial = target.with_name(f".vlmchat-{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        if target.exists():
            shutil.copymode(target, partial)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def record(turn: Turn) -> dict[str, Any]:
    """One answer as the JSON object that `--json` prints and `/save` writes.

    Plain JSON values only: numbers that are not finite become None, and text that is not valid
    Unicode (a file name in another encoding) is made so. Boxes are whole pixels x0, y0, x1, y1.
    """
    reply, timing = turn.reply, turn.reply.timing
    return {
        "schema": 1,
        "prompt": _unicode(reply.prompt),
        "text": _unicode(reply.text),
        "token_ids": list(reply.token_ids),
        "logprobs": [_number(value) for value in reply.logprobs],
        "finish_reason": reply.finish_reason,
        "image": None if turn.image is None else _unicode(turn.image),
        "detections": [
            {"label": _unicode(label), "box": list(box)} for label, box in pixel_boxes(turn)
        ],
        "timing": {
            "image_s": _number(timing.image_s),
            "first_token_s": _number(timing.first_token_s),
            "total_s": _number(timing.total_s),
            "tokens_per_s": _number(timing.tokens_per_s),
        },
        "prefix": {
            "mode": reply.prefix_mode,
            "reused_tokens": reply.reused_tokens,
            "computed_tokens": reply.computed_tokens,
        },
    }


def pixel_boxes(turn: Turn) -> list[tuple[str, tuple[int, int, int, int]]]:
    """The detections of a turn as (label, (x0, y0, x1, y1)) in whole pixels of its image."""
    if turn.size is None:
        return []
    boxes = []
    for found in turn.detections:
        x0, y0, x1, y1 = found.pixel_box(turn.size)
        boxes.append((found.label, (round(x0), round(y0), round(x1), round(y1))))
    return boxes


def _number(value: float) -> float | None:
    """A float that JSON can hold, to the microsecond or millionth."""
    return round(float(value), 6) if math.isfinite(value) else None


def _unicode(text: str) -> str:
    """Text without lone surrogates, which no UTF-8 file or stream can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _markdown(turns: Sequence[Turn], model_name: str) -> str:
    """The conversation to read; foreign text stands in code spans and blocks, never as markup."""
    title = f"# Conversation with {_code(model_name)}" if model_name else "# Conversation"
    parts = [title]
    for number, turn in enumerate(turns, 1):
        parts.append(f"## {number}. {_code(turn.line)}")
        if turn.image is not None and turn.size is not None:
            parts.append(f"Image: {_code(turn.image)}, {turn.size[0]}x{turn.size[1]}")
        if turn.reply.prompt != turn.line:
            parts.append(f"Prompt: {_code(turn.reply.prompt)}")
        parts.append(_block(turn.reply.text))
        if turn.reply.finish_reason != "stop":
            parts.append(ENDINGS[turn.reply.finish_reason])
        boxes = [f"- {_code(label)} at {box}" for label, box in pixel_boxes(turn)]
        parts.extend(["\n".join(boxes)] if boxes else [])
    return "\n\n".join(parts) + "\n"


def _block(text: str) -> str:
    """An indented code block: the answer as it is, whatever marks it holds."""
    if not text.strip():
        return "(an empty answer)"
    return "\n".join(f"    {line}".rstrip() for line in _visible(text).strip("\n").split("\n"))


def _code(text: str) -> str:
    """A Markdown code span around any one-line text, backticks included."""
    text = " ".join(_visible(text).split())
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    pad = " " if "`" in text or not text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _visible(text: str) -> str:
    """Text whose control characters are replaced, so that a file can be shown in a terminal."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", _unicode(text))
