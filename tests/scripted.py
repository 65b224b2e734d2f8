"""A scripted engine: the public surface of `vlmchat.engine.Engine`, with answers from a queue.

    engine = ScriptedEngine("a cat", "two words")
    session = Session(engine)

Each `stream` takes the next answer and gives it word by word; every call is kept in `calls`, and
the prompts that were asked together in `batches`.
An exception in the queue is raised in place of an answer.
`pause_after = n` makes the next answer wait behind its n-th token until `cancelled()` is true or
`go` is set, so that a test can press Ctrl-C in mid-answer; `paused` is set while it waits.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

from vlmchat.engine import Piece, Reply, Timing
from vlmchat.prefix import Kept

if TYPE_CHECKING:
    from vlmchat.images import Picture
    from vlmchat.sampling import Sampling

IMAGE_TOKENS = 16
END = 1
TIMING = Timing(image_s=0.25, first_token_s=0.5, total_s=1.5, tokens_per_s=4.0)


@dataclass(frozen=True)
class Call:
    """What one call of `stream` was given; `image` is the name of the picture."""

    prompt: str
    image: str | None
    sampling: Sampling
    mode: str


class ScriptedEngine:
    def __init__(self, *answers: str | BaseException) -> None:
        self.config = SimpleNamespace(image_tokens=IMAGE_TOKENS)
        self.device = "cpu"
        self.dtype = "torch.float32"
        self.quantize = "none"
        self.parameters = 1_234_567
        self.weight_bytes = 4_938_268
        self.answers: deque[str | BaseException] = deque(answers)
        self.calls: list[Call] = []
        self.batches: list[list[str]] = []
        self.looks: list[tuple[str, str, str]] = []
        self.pause_after: int | None = None
        self.paused = threading.Event()
        self.go = threading.Event()
        self._kept: dict[tuple[str, str], Kept] = {}

    def enqueue(self, *answers: str | BaseException) -> None:
        self.answers.extend(answers)

    @property
    def kept(self) -> tuple[Kept, ...]:
        return tuple(self._kept.values())

    def look(self, picture: Picture, prompt: str = "", mode: str = "kv") -> None:
        self.looks.append((picture.name, prompt, mode))
        self._keep(picture, prompt)

    def _keep(self, picture: Picture, prompt: str) -> int:
        """Keep a prefix; the number of its tokens if it was there before, else 0."""
        words = " ".join(prompt.split()[:1])
        known = self._kept.get((picture.key, words))
        if known is not None:
            return known.tokens
        self._kept[picture.key, words] = Kept(picture.key, words, IMAGE_TOKENS + 2, 4096)
        return 0

    def watch(self, report: Callable[[float], None]) -> AbstractContextManager[None]:
        report(0.5)
        return nullcontext()

    def stream(
        self,
        prompt: str,
        picture: Picture | None,
        sampling: Sampling,
        mode: str,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[Piece | Reply]:
        self.calls.append(Call(prompt, picture and picture.name, sampling, mode))
        answer = self.answers.popleft()
        reused = self._keep(picture, prompt) if picture is not None else 0
        if isinstance(answer, BaseException):
            raise answer
        pause, self.pause_after = self.pause_after, None
        pieces: list[Piece] = []
        reason = "stop"
        for word in re.findall(r"\s*\S+|\s+$", answer):
            if pause == len(pieces):
                self._wait(cancelled)
            if cancelled():
                reason = "cancelled"
                break
            if len(pieces) == sampling.max_tokens:
                reason = "length"
                break
            pieces.append(Piece(text=word, token_id=10 + len(pieces), logprob=-0.5))
            yield pieces[-1]
        if reason == "stop":
            pieces.append(Piece(text="", token_id=END, logprob=-0.25))
            yield pieces[-1]
        yield _reply(prompt, pieces, reason, mode, reused)

    def stream_together(
        self, prompts: list[str], picture: Picture | None, sampling: Sampling, mode: str
    ) -> list[Iterator[Piece | Reply]]:
        self.batches.append(list(prompts))
        return [self.stream(prompt, picture, sampling, mode) for prompt in prompts]

    def _wait(self, cancelled: Callable[[], bool]) -> None:
        """Hold the answer, so long as a test may reasonably take to act."""
        self.paused.set()
        deadline = time.monotonic() + 60
        while not cancelled() and not self.go.is_set():
            if time.monotonic() > deadline:
                raise TimeoutError("nobody cancelled the paused answer")
            time.sleep(0.01)
        self.paused.clear()
        self.go.clear()


def _reply(prompt: str, pieces: list[Piece], reason: str, mode: str, reused: int) -> Reply:
    return Reply(
        prompt=prompt,
        text="".join(piece.text for piece in pieces),
        token_ids=tuple(piece.token_id for piece in pieces),
        logprobs=tuple(piece.logprob for piece in pieces),
        finish_reason=reason,
        prefix_mode=mode,
        reused_tokens=reused,
        computed_tokens=len(prompt.split()) + 2,
        timing=TIMING,
    )
