"""What a chat remembers: the images, the settings and the answers so far.

A session is what a program holds: it loads images, asks questions about the current one and keeps
a record of every answer. It writes nothing to the screen and knows nothing of commands. Nothing
heavy is imported until an image is loaded or a question is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vlmchat.background import Loading
from vlmchat.errors import UserError
from vlmchat.tracking import NullTracker, Tracker
from vlmchat.transcript import as_text, record, write

if TYPE_CHECKING:
    from vlmchat.engine import Engine, Piece, PrefixMode, Reply
    from vlmchat.images import Picture
    from vlmchat.model.mask_decoder import MaskDecoder
    from vlmchat.overlay import Scene
    from vlmchat.sampling import Sampling
    from vlmchat.tasks import Detection

__all__ = ["DEFAULT_TEMPLATE", "Session", "Settings", "Turn", "record"]

DEFAULT_TEMPLATE = "answer en {question}"


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
    each question); `template` holds `{question}` where a plain question goes; `track` gives each
    answer to the session's tracker.
    """

    sampling: Sampling = field(default_factory=_greedy)
    prefix_cache: PrefixMode = "kv"
    template: str = DEFAULT_TEMPLATE
    track: bool = False


@dataclass(frozen=True)
class Turn:
    """One question and its answer: the line as typed, the image's name and (width, height).

    `picture` is the image itself, and `pieces` are the texts of the answer's tokens.
    """

    line: str
    image: str | None
    size: tuple[int, int] | None
    reply: Reply
    detections: tuple[Detection, ...] = ()
    picture: Picture | None = field(default=None, repr=False, compare=False)
    pieces: tuple[str, ...] = field(default=(), repr=False, compare=False)

    @property
    def confidences(self) -> tuple[float | None, ...]:
        """How sure the model was of each detection's box (see `vlmchat.confidence`)."""
        from vlmchat.confidence import confidence

        return tuple(
            confidence(found, self.pieces, self.reply.logprobs) for found in self.detections
        )


class Session:
    """One chat with one loaded model.

    `pictures` are the images in the order they were loaded, the first being number 1; `current` is
    the one that questions are about. `failed` names an image that was asked for and could not be
    had: until another is chosen, questions are refused rather than answered about the one before.
    `notices` are what a person should know of the model, one line each. `tracker` keeps a record of
    answers for whoever shows them, who gives it each one afterwards.
    `mask_decoder` draws the masks of `segment`, where it was loaded; `looked` is what `/look` drew
    over the picture of the last answer.

    The engine may be one that is still being loaded: whatever needs it waits, and `notices` and
    `mask_decoder` come with it.
    """

    def __init__(
        self,
        engine: Engine | Loading,
        settings: Settings | None = None,
        *,
        model_name: str = "",
        notices: Sequence[str] = (),
    ) -> None:
        self._engine = engine
        self.settings = settings if settings is not None else Settings()
        self.model_name = model_name
        self.notices = tuple(notices)
        self.tracker: Tracker = NullTracker()
        self.pictures: list[Picture] = []
        self.current: Picture | None = None
        self.failed: str | None = None
        self.turns: list[Turn] = []
        self.last_question: tuple[str, str] | None = None
        self.mask_decoder: MaskDecoder | None = None
        self.looked: Scene | None = None

    @property
    def engine(self) -> Engine:
        """What answers. Waits for a model that is being loaded; raises LoadError."""
        engine = self._engine
        if isinstance(engine, Loading):
            loaded = engine.result()
            self.notices, self.mask_decoder = loaded.notices, loaded.mask_decoder
            self._engine = engine = loaded.engine
        return engine

    @property
    def loading(self) -> Loading | None:
        """The load of the model, unless it has ended well."""
        engine = self._engine
        if isinstance(engine, Loading) and (engine.has_failed or not engine.is_over):
            return engine
        return None

    def add_image(self, source: Path | str | bytes, name: str | None = None) -> int:
        """Load an image, make it current and return its number; a known image keeps its number.

        `source` is a path or the bytes of a file, `name` what to call it.
        Raises ImageError. The image counts as failed from the first moment, so that whatever
        interrupts the loading, no later question is answered about the image before it.
        """
        from vlmchat.images import load_picture

        source = Path(source) if isinstance(source, str) else source
        self.fail_image(name or (source.name if isinstance(source, Path) else "the image"))
        picture = load_picture(source, name)
        known = [(each.key, each.name) for each in self.pictures]
        if (picture.key, picture.name) not in known:
            self.pictures.append(picture)
            known.append((picture.key, picture.name))
        number = known.index((picture.key, picture.name)) + 1
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
        self.looked = None

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
        self._check_image()
        settings, picture = self.settings, self.current
        stream = self.engine.stream(
            prompt, picture, settings.sampling, settings.prefix_cache, cancelled
        )
        return self._remember(stream, line, picture)

    def ask_together(self, questions: Sequence[tuple[str, str]]) -> list[Iterator[Piece | Reply]]:
        """Ask several questions, each a prompt and what was typed, about the current image at once.

        A stream each, as `ask` gives; they are computed together, whichever is read from. Turns are
        kept in the order in which the streams are read to their ends.
        """
        self.last_question = questions[-1]
        self._check_image()
        settings, picture = self.settings, self.current
        prompts = [prompt for prompt, _ in questions]
        streams = self.engine.stream_together(
            prompts, picture, settings.sampling, settings.prefix_cache
        )
        return [
            self._remember(stream, line, picture)
            for stream, (_, line) in zip(streams, questions, strict=True)
        ]

    def _check_image(self) -> None:
        if self.failed is not None:
            raise UserError(
                f"{self.failed} is not loaded: choose another with /image,"
                " or let go of it with /image none"
            )

    def answer(self, text: str) -> Reply:
        """The whole answer to a question as a person types it; `ask` streams it instead."""
        for _ in self.ask(self.prompt_for(text), text):
            pass
        return self.turns[-1].reply

    def answers(self, texts: Sequence[str]) -> list[Reply]:
        """Whole answers to several questions about the current image, computed together."""
        questions = [(self.prompt_for(text), text) for text in texts]
        replies = []
        for stream in self.ask_together(questions) if questions else []:
            for _ in stream:
                pass
            replies.append(self.turns[-1].reply)
        return replies

    def _remember(
        self, stream: Iterator[Piece | Reply], line: str, picture: Picture | None
    ) -> Iterator[Piece | Reply]:
        """Pass an engine's stream on and remember its Reply."""
        from vlmchat.engine import Reply

        pieces: list[str] = []
        for part in stream:
            if isinstance(part, Reply):
                self.turns.append(_turn(line, picture, part, tuple(pieces)))
                self.looked = None
            else:
                pieces.append(part.text)
            yield part

    def transcript(self, form: str) -> str:
        """The conversation as text: "md" to read, "json" (a list) or "jsonl" (one a line)."""
        return as_text(self.turns, form, self.model_name)

    def save(self, path: Path) -> None:
        """Write the conversation; the suffix names the format. Raises UserError."""
        write(self.turns, path, self.model_name)


def _turn(line: str, picture: Picture | None, reply: Reply, pieces: tuple[str, ...]) -> Turn:
    """A finished answer with what it found; without a picture there is nothing to find."""
    if picture is None:
        return Turn(line, None, None, reply, pieces=pieces)
    from vlmchat.tasks import parse_detections

    found = tuple(parse_detections(reply.text))
    return Turn(line, picture.name, picture.size, reply, found, picture, pieces)
