"""What a chat remembers: the images, the settings and the answers so far.

A session is what a program holds: it loads images, asks questions about the current one and keeps
a record of every answer. It writes nothing to the screen and knows nothing of commands. Nothing
heavy is imported until an image is loaded or a question is asked.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmchat.errors import UserError

if TYPE_CHECKING:
    from vlmchat.engine import Engine, Piece, Reply
    from vlmchat.images import Picture
    from vlmchat.sampling import Sampling
    from vlmchat.tasks import Detection

DEFAULT_TEMPLATE = "answer en {question}"
FORMATS = ("md", "json", "jsonl")


def _greedy() -> Sampling:
    """The sampling of a session that was told nothing: always the likeliest token."""
    from vlmchat.sampling import Sampling

    return Sampling()


def _never() -> bool:
    """What `cancelled` answers when nobody can cancel."""
    return False


@dataclass(frozen=True)
class Settings:
    """How questions are asked; change it with `dataclasses.replace` and assign the result.

    `prefix_cache` is "kv" (the decoder's work on the image is kept) or "exact" (it is redone with
    each question); `template` holds `{question}` where a plain question goes.
    """

    sampling: Sampling = field(default_factory=_greedy)
    prefix_cache: str = "kv"
    template: str = DEFAULT_TEMPLATE


@dataclass(frozen=True)
class Turn:
    """One question and its answer: the line as typed, the image's name and (width, height)."""

    line: str
    image: str | None
    size: tuple[int, int] | None
    reply: Reply
    detections: tuple[Detection, ...] = ()


class Session:
    """One chat with one loaded model.

    `pictures` are the images in the order they were loaded, the first being number 1; `current` is
    the one that questions are about. `failed` names an image that was asked for and could not be
    had: until another is chosen, questions are refused rather than answered about the one before.
    """

    def __init__(
        self, engine: Engine, settings: Settings | None = None, *, model_name: str = ""
    ) -> None:
        self.engine = engine
        self.settings = settings if settings is not None else Settings()
        self.model_name = model_name
        self.pictures: list[Picture] = []
        self.current: Picture | None = None
        self.failed: str | None = None
        self.turns: list[Turn] = []
        self.last_question: tuple[str, str] | None = None

    def add_image(self, source: Path | bytes, name: str | None = None) -> int:
        """Load an image, make it current and return its number; known content keeps its number.

        Raises ImageError. The image counts as failed from the first moment, so that whatever
        interrupts the loading, no later question is answered about the image before it.
        """
        from vlmchat.images import load_picture

        self.fail_image(name or (source.name if isinstance(source, Path) else "the image"))
        picture = load_picture(source, name)
        keys = [known.key for known in self.pictures]
        if picture.key not in keys:
            self.pictures.append(picture)
            keys.append(picture.key)
        number = keys.index(picture.key) + 1
        self.select(number)
        return number

    def fail_image(self, name: str) -> None:
        """Note that the image `name` was wanted and is not there; loaded ones stay in the list."""
        self.current = None
        self.failed = name

    def select(self, number: int) -> None:
        """Make image `number` (from 1) current; an unknown number counts as a failed image."""
        if not 1 <= number <= len(self.pictures):
            self.fail_image(f"image {number}")
            raise UserError(f"there is no image {number}: {self._choices()}")
        self.current = self.pictures[number - 1]
        self.failed = None

    def _choices(self) -> str:
        """What a person can choose from, for the end of an error message."""
        loaded = len(self.pictures)
        if not loaded:
            return "load one first with /image PATH"
        return "only image 1 is loaded" if loaded == 1 else f"choose one from 1 to {loaded}"

    def drop_image(self) -> None:
        """Let go of the current (or failed) image; it stays in the list to go back to."""
        self.current = None
        self.failed = None

    def clear(self) -> None:
        """Forget the questions and answers; images and settings stay."""
        self.turns.clear()
        self.last_question = None

    def prompt_for(self, text: str) -> str:
        """The prompt for a typed text: task words go as they are, the rest into the template.

        Line breaks (of a pasted text) become spaces, because a line break ends a prompt.
        """
        from vlmchat.tasks import is_task, wrap

        question = " ".join(part.strip() for part in text.split("\n")).strip()
        return question if is_task(question) else wrap(question, self.settings.template)

    def warm(self) -> None:
        """Compute and keep what a plain question about the current image will start from."""
        picture = self.current
        if picture is not None:
            self.engine.look(picture, self.prompt_for(""), self.settings.prefix_cache)

    def ask(
        self, prompt: str, line: str | None = None, cancelled: Callable[[], bool] = _never
    ) -> Iterator[Piece | Reply]:
        """Stream the answer to `prompt`: Pieces, then one Reply, which is kept as a Turn.

        `line` is what was typed (the prompt where it is None). Raises UserError at once when the
        wanted image could not be loaded. Without an image the model answers from text alone.
        A stream that is closed early or interrupted leaves no Turn and nothing to repair.
        """
        line = prompt if line is None else line
        self.last_question = (prompt, line)
        if self.failed is not None:
            raise UserError(
                f"{self.failed} is not loaded: choose another with /image,"
                " or let go of it with /image none"
            )
        return self._answer(prompt, line, self.current, cancelled)

    def _answer(
        self, prompt: str, line: str, picture: Picture | None, cancelled: Callable[[], bool]
    ) -> Iterator[Piece | Reply]:
        """Pass the engine's stream on and remember its Reply."""
        from vlmchat.engine import Reply

        settings = self.settings
        stream = self.engine.stream(
            prompt, picture, settings.sampling, settings.prefix_cache, cancelled
        )
        for part in stream:
            if isinstance(part, Reply):
                self.turns.append(_turn(line, picture, part))
            yield part

    def transcript(self, form: str) -> str:
        """The conversation as text: "md" to read, "json" (a list) or "jsonl" (one a line)."""
        if form == "md":
            return _markdown(self.turns, self.model_name)
        records = [record(turn) for turn in self.turns]
        if form == "json":
            return json.dumps(records, indent=2, allow_nan=False) + "\n"
        if form == "jsonl":
            return "".join(json.dumps(each, allow_nan=False) + "\n" for each in records)
        raise UserError(f"there is no format {form}: choose one of {', '.join(FORMATS)}")

    def save(self, path: Path) -> None:
        """Write the conversation to a file whose suffix names the format, replacing it whole."""
        form = path.suffix.lower().removeprefix(".")
        if form not in FORMATS:
            known = ", ".join("." + each for each in FORMATS)
            raise UserError(f"cannot tell the format of {path.name}: its name must end in {known}")
        if not self.turns:
            raise UserError("there is nothing to save: ask something first")
        try:
            _replace_file(path, self.transcript(form))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"cannot write {path}: {reason}") from error


def _replace_file(path: Path, text: str) -> None:
    """Write a file beside the wanted one and move it there, so that no half file is ever seen."""
    target = Path(os.path.realpath(path))  # a link keeps pointing at what it points at
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _turn(line: str, picture: Picture | None, reply: Reply) -> Turn:
    """A finished answer with what it found; without a picture there is nothing to find."""
    if picture is None:
        return Turn(line, None, None, reply)
    from vlmchat.tasks import parse_detections

    return Turn(line, picture.name, picture.size, reply, tuple(parse_detections(reply.text)))


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


def _markdown(turns: list[Turn], model_name: str) -> str:
    """The conversation to read; foreign text stands in code spans and blocks, never as markup."""
    title = f"# Conversation with {_code(model_name)}" if model_name else "# Conversation"
    parts = [title]
    for number, turn in enumerate(turns, 1):
        parts.append(f"## {number}. {_code(turn.line)}")
        if turn.image is not None and turn.size is not None:
            parts.append(f"Image: {_code(turn.image)}, {turn.size[0]}x{turn.size[1]}")
        parts.append(f"Prompt: {_code(turn.reply.prompt)}")
        parts.append("\n".join(f"    {line}" for line in _visible(turn.reply.text).split("\n")))
        if turn.reply.finish_reason != "stop":
            parts.append(f"(ended early: {turn.reply.finish_reason})")
        boxes = [f"- {_code(label)} at {box}" for label, box in pixel_boxes(turn)]
        parts.extend(["\n".join(boxes)] if boxes else [])
    return "\n\n".join(parts) + "\n"


def _code(text: str) -> str:
    """A Markdown code span around any one-line text, backticks included."""
    text = " ".join(_visible(text).split())
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    pad = " " if "`" in text or not text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _visible(text: str) -> str:
    """Text whose control characters are replaced, so that a file can be shown in a terminal."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", _unicode(text))
