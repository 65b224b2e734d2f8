r"""Several questions about one image, answered in one sequence.

The questions stand behind one another, and a mask keeps them apart: each reads the image's prefix,
which is there once, and what is its own. An image block (i), two questions of two and one tokens
(a, b), and two steps of decoding, which give each of them a token:

        i i a a b a b a b
    a   1 1 1 1 0 0 0 0 0
    a   1 1 1 1 0 0 0 0 0
    b   1 1 0 0 1 0 0 0 0
    a   1 1 1 1 0 1 0 0 0
    b   1 1 0 0 1 0 1 0 0
    a   1 1 1 1 0 1 0 1 0
    b   1 1 0 0 1 0 1 0 1

Positions are counted for each question as if it stood there alone, and the model needs nothing new.
An answer that has ended adds no more rows. What this saves is reading the weights: once a step
instead of once a question. What it wastes, products with columns that are masked, is little beside.

Axes: R questions that are not yet answered, T new tokens, S columns so far, D width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vlmchat.answer import Draft, Piece, PrefixMode, Reply
from vlmchat.errors import UserError
from vlmchat.model.cache import KVCache
from vlmchat.model.paligemma import PaliGemma
from vlmchat.sampling import Sampling

if TYPE_CHECKING:
    from vlmchat.engine import Engine
    from vlmchat.images import Picture

NOBODY = -1  # owns no column
ROOM = 256  # columns at first; the room doubles when it is full


class SharedSequence:
    """One sequence that several owners write into, each reading no more than is meant for it."""

    def __init__(self, model: PaliGemma) -> None:
        self._model = model
        self._cache = self._room_for(ROOM)
        self._owner = torch.full((ROOM,), NOBODY, device=model.device)

    def adopt(self, kept: KVCache, owner: int) -> None:
        """Put a copy of what was kept behind the rest, as columns of `owner`."""
        self._make_room(kept.length)
        start = self._cache.length
        self._cache.adopt(kept)
        self._owner[start : self._cache.length] = owner

    def extend(
        self,
        x: Tensor,
        owners: Sequence[int],
        reads: Sequence[int],
        positions: Sequence[int],
        wanted: list[int],
    ) -> Tensor:
        """Put x (1, T, D) behind the rest; hidden states (W, D) of the W tokens that are wanted.

        For each of the T tokens: whose it is, whose columns it reads besides, and its position.
        """
        self._make_room(x.shape[1])
        end = self._cache.length + x.shape[1]
        owner, read, position = torch.tensor([owners, reads, positions], device=x.device)
        self._owner[self._cache.length : end] = owner
        columns = self._owner[:end]
        mask = (columns == owner[:, None]) | (columns == read[:, None])  # (T, S)
        rows = wanted if len(wanted) < x.shape[1] else None
        hidden: Tensor = self._model.text(x, position, mask, self._cache, rows)
        return hidden[0]

    def _make_room(self, columns: int) -> None:
        needed = self._cache.length + columns
        if needed <= self._cache.capacity:
            return
        larger = self._room_for(max(needed, 2 * self._cache.capacity))
        larger.adopt(self._cache)
        owner = torch.full((larger.capacity,), NOBODY, device=self._owner.device)
        owner[: larger.length] = self._owner[: larger.length]
        self._cache, self._owner = larger, owner

    def _room_for(self, columns: int) -> KVCache:
        model = self._model
        return KVCache(model.config.text, columns, dtype=model.dtype, device=model.device)


@dataclass
class _Question:
    """One prompt of a batch, and how far its answer is.

    It reads the columns of `prefix` besides its own. `rest` are the ids that are still to be read,
    the first of them at `position`; `last` (D,) is the hidden state before the next token. `parts`
    have been made and wait for the reader.
    """

    number: int
    draft: Draft
    prefix: int = NOBODY
    rest: list[int] = field(default_factory=list)
    position: int = 0
    last: Tensor | None = None
    reused: int = 0
    computed: int = 0
    image_s: float = 0.0
    parts: deque[Piece | Reply] = field(default_factory=deque)


def answer_together(
    engine: Engine,
    prompts: Sequence[str],
    picture: Picture | None,
    sampling: Sampling,
    mode: PrefixMode,
    cancelled: Callable[[], bool],
) -> list[Iterator[Piece | Reply]]:
    """A stream for each prompt; all of them advance with whichever is read from.

    A prompt that does not fit raises UserError from its own stream. What else goes wrong is raised
    by the stream that meets it, and the streams not yet begun are then answered one by one.
    """
    batch = Batch(engine, prompts, picture, sampling, mode, cancelled)
    return [batch.stream(number) for number in range(len(prompts))]


class Batch:
    """The loop of several answers: begun by the first stream that is read from."""

    def __init__(
        self,
        engine: Engine,
        prompts: Sequence[str],
        picture: Picture | None,
        sampling: Sampling,
        mode: PrefixMode,
        cancelled: Callable[[], bool],
    ) -> None:
        self._engine, self._model = engine, engine.model
        self._prompts = prompts
        self._picture, self._sampling, self._mode = picture, sampling, mode
        self._cancelled = cancelled
        self._sequence = SharedSequence(engine.model)
        self._questions: dict[int, _Question] = {}
        self._refused: dict[int, UserError] = {}
        self._prefixes: dict[tuple[int, ...], int] = {}  # ids behind the image -> owner of columns
        self._begun = False
        self._error: BaseException | None = None

    def stream(self, number: int) -> Iterator[Piece | Reply]:
        """The answer to one prompt."""
        if not self._begun:
            self._guard(self._begin)
        if self._error is not None:
            yield from self._alone(number)
            return
        if number in self._refused:
            raise self._refused[number]
        question = self._questions[number]
        while True:
            while question.parts:
                part = question.parts.popleft()
                yield part
                if isinstance(part, Reply):
                    return
            if self._error is not None:
                raise self._error
            self._guard(self._step)

    def _alone(self, number: int) -> Iterator[Piece | Reply]:
        return self._engine.stream(
            self._prompts[number], self._picture, self._sampling, self._mode, self._cancelled
        )

    def _guard(self, act: Callable[[], None]) -> None:
        """Do something for all of the batch, which is of no more use if that is interrupted."""
        self._begun = True
        try:
            act()
        except BaseException as error:
            self._error = error
            raise

    @torch.inference_mode()
    def _begin(self) -> None:
        """Read all prompts, and choose the first token of every answer."""
        for number, prompt in enumerate(self._prompts):
            try:
                self._questions[number] = self._question(number, prompt)
            except UserError as error:
                self._refused[number] = error
        questions = list(self._questions.values())
        if self._mode == "exact" and self._picture is not None:
            for question in questions:
                self._read_whole(question, self._engine.prefill.features(self._picture))
        self._read([question for question in questions if question.rest])
        self._choose(questions)

    def _question(self, number: int, prompt: str) -> _Question:
        """A prompt with the prefix that it can start from. Raises UserError if it is too long."""
        engine, picture = self._engine, self._picture
        ids = engine.processor.prompt_ids(prompt)
        question = _Question(number, engine.draft(prompt, ids, picture, self._sampling), rest=ids)
        question.computed = len(question.draft.input_ids)
        if picture is None:
            return question
        if self._mode == "exact":
            question.rest = question.draft.input_ids
            question.image_s = engine.prefill.encoded(picture)[1]
            return question
        self._lean(question, picture, engine.prefill.lead(prompt))
        return question

    def _lean(self, question: _Question, picture: Picture, lead: tuple[int, ...]) -> None:
        """Let a question start behind the kept block of the image and `lead`."""
        prefix, question.image_s, _ = self._engine.prefill.block(picture, lead)
        assert prefix.cache is not None
        assert prefix.last is not None
        if lead not in self._prefixes:
            owner = len(self._prompts) + len(self._prefixes)
            self._sequence.adopt(prefix.cache, owner)
            self._prefixes[lead] = owner
        question.prefix = self._prefixes[lead]
        question.rest = question.rest[len(lead) :]
        question.position = prefix.cache.length
        question.last = prefix.last[0]
        question.reused = 0 if question.image_s else prefix.cache.length
        question.computed -= question.reused

    def _read_whole(self, question: _Question, features: Tensor) -> None:
        """Read the image for one question alone, with its prompt if the image reads text."""
        config = self._engine.config
        images = len(question.rest) if config.image_attends_to_text else config.image_tokens
        question.rest, behind = question.rest[:images], question.rest[images:]
        self._read([question], features)
        question.rest = behind

    def _read(self, questions: Sequence[_Question], features: Tensor | None = None) -> None:
        """Put what is left to read of these questions into the sequence, in one pass."""
        if not questions:
            return
        tokens = [(each, at) for each in questions for at in range(len(each.rest))]
        ends = accumulate(len(question.rest) for question in questions)
        row = torch.tensor([[each.rest[at] for each, at in tokens]], device=self._model.device)
        hidden = self._sequence.extend(
            self._model.embed(row, features),
            [each.number for each, _ in tokens],
            [each.prefix for each, _ in tokens],
            [each.position + at for each, at in tokens],
            [end - 1 for end in ends],
        )
        for question, last in zip(questions, hidden, strict=True):
            question.last = last
            question.position += len(question.rest)
            question.rest = []

    @torch.inference_mode()
    def _step(self) -> None:
        """One more token for every answer that has not ended."""
        questions = [each for each in self._questions.values() if each.draft.finish is None]
        if self._cancelled():
            for question in questions:
                question.draft.cancel()
                question.parts.append(self._reply(question))
            return
        for question in questions:
            question.rest = [question.draft.token_ids[-1]]
        self._read(questions)
        self._choose(questions)

    def _choose(self, questions: Sequence[_Question]) -> None:
        """Choose the next token of each of these answers."""
        if not questions:
            return
        last = [question.last for question in questions if question.last is not None]
        for question, logits in zip(questions, self._engine.scores(torch.stack(last)), strict=True):
            question.parts.append(question.draft.choose(logits))
            if question.draft.finish is not None:
                question.parts.append(self._reply(question))

    def _reply(self, question: _Question) -> Reply:
        return question.draft.reply(
            self._mode, question.reused, question.computed, question.image_s
        )
