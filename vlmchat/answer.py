"""An answer: the pieces that it streams as, the reply that ends it, and how it is written."""

from dataclasses import dataclass
from time import perf_counter
from typing import Literal

from torch import Tensor

from vlmchat.sampling import Sampler
from vlmchat.tokenizer import Detokenizer

PrefixMode = Literal["kv", "exact"]
FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Timing:
    """Seconds of one answer: what the image cost in it, until the first token, in all."""

    image_s: float
    first_token_s: float
    total_s: float
    tokens_per_s: float  # after the first token; 0 where there is only one


@dataclass(frozen=True)
class Piece:
    """One token as it streams; `text` may be empty while a character is unfinished."""

    text: str
    token_id: int
    logprob: float


@dataclass(frozen=True)
class Reply:
    """A whole answer, which ends every stream. `token_ids` include the end token.

    `input_ids` are all that the model read before it answered: image tokens, `<bos>`, prompt.
    """

    prompt: str
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    prefix_mode: PrefixMode
    reused_tokens: int
    computed_tokens: int
    timing: Timing
    input_ids: tuple[int, ...] = ()


class Draft:
    """An answer in the making: the tokens so far, and why it has ended, once it has.

    `budget` is how many tokens it may have, `input_ids` what the model reads before them. Its
    clock starts when it is made.
    """

    def __init__(
        self,
        prompt: str,
        input_ids: list[int],
        budget: int,
        sampler: Sampler,
        detokenizer: Detokenizer,
        end_id: int,
    ) -> None:
        self.budget, self.input_ids = budget, input_ids
        self.token_ids: list[int] = []
        self.finish: FinishReason | None = None
        self._prompt = prompt
        self.sampler = sampler
        self._detokenizer, self._end_id = detokenizer, end_id
        self._text = ""
        self._logprobs: list[float] = []
        self._started = perf_counter()
        self._first_token_s = 0.0

    def choose(self, logits: Tensor) -> Piece:
        """Choose the next token from logits (V,)."""
        return self.add(*self.sampler.pick(logits))

    def add(self, token_id: int, logprob: float) -> Piece:
        """Take a token that `sampler` has chosen."""
        self.token_ids.append(token_id)
        self._logprobs.append(logprob)
        self._first_token_s = self._first_token_s or perf_counter() - self._started
        if token_id == self._end_id:
            self.finish = "stop"
        elif len(self.token_ids) == self.budget:
            self.finish = "length"
        text = "" if self.finish == "stop" else self._detokenizer.push(token_id)
        if self.finish:
            text += self._detokenizer.flush()
        self._text += text
        return Piece(text, token_id, logprob)

    def cancel(self) -> None:
        """End the answer where it is."""
        self.finish = "cancelled"

    def reply(self, mode: PrefixMode, reused: int, computed: int, image_s: float) -> Reply:
        """The whole answer, which has ended; the rest is what its prefix has cost."""
        assert self.finish is not None
        tokens, total_s = len(self.token_ids), perf_counter() - self._started
        after_first = total_s - self._first_token_s
        rate = (tokens - 1) / after_first if tokens > 1 and after_first > 0 else 0.0
        return Reply(
            prompt=self._prompt,
            text=self._text,
            token_ids=tuple(self.token_ids),
            logprobs=tuple(self._logprobs),
            finish_reason=self.finish,
            prefix_mode=mode,
            reused_tokens=reused,
            computed_tokens=computed,
            timing=Timing(image_s, self._first_token_s, total_s, rate),
            input_ids=tuple(self.input_ids),
        )
