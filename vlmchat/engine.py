"""The one loop: look at an image once, then answer prompts about it, token by token.

Two ways to treat the image's prefix (drawn in `vlmchat.model.masks`):

- `exact`: image and prompt are one block that reads all of itself, as the model was trained. The
  image's keys depend on the prompt, so only its features are kept between questions.
- `kv`: a block of image tokens, `<bos>` and the task's fixed words is kept with its keys and
  values; the rest of a prompt is computed behind it. On a PaliGemma this is an approximation
  (the image does not read the question), and exact where a prompt is nothing but fixed words. On a
  model whose images never read text the block is the image alone, and the modes are equal.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

import torch
from torch import Tensor

from vlmchat.config import ModelConfig
from vlmchat.errors import UserError
from vlmchat.headway import watched
from vlmchat.images import Picture
from vlmchat.model.cache import KVCache
from vlmchat.model.masks import block_mask
from vlmchat.model.paligemma import PaliGemma
from vlmchat.prefix import ImagePrefix, Kept, PrefixStore
from vlmchat.processor import Processor
from vlmchat.sampling import Sampler, Sampling

PrefixMode = Literal["kv", "exact"]
FinishReason = Literal["stop", "length", "cancelled"]
CACHE_BYTES = 2**30  # for kept prefixes: 220 images of 224 pixels, or 13 of 896, in bfloat16
ROOM_STEP = 256  # the working cache grows by whole steps, so that it is seldom made anew


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


class Engine:
    """A model and its processor, the prefixes it keeps, and the loop that writes answers.

    `look` may run in another thread while the person types. An interrupt anywhere leaves nothing
    half-done behind: a prefix is kept only once it is whole, and each answer starts its cache anew.
    """

    def __init__(
        self, model: PaliGemma, processor: Processor, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self.model = model
        self.processor = processor
        self._prefixes = PrefixStore(cache_bytes)
        self._room = self._new_cache(0)
        self._banned = torch.tensor(
            [model.config.image_token_id, model.config.bos_id, model.config.pad_id],
            device=model.device,
        )

    @property
    def config(self) -> ModelConfig:
        """The effective configuration of the model."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype it runs in."""
        return self.model.dtype

    @property
    def parameters(self) -> int:
        """How many numbers the model has learnt."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def weight_bytes(self) -> int:
        """Bytes that those numbers take."""
        return sum(p.nbytes for p in self.model.parameters())

    @property
    def kept(self) -> tuple[Kept, ...]:
        """The kept prefixes, least recently used first."""
        decode = self.processor.tokenizer.decode
        return tuple(
            Kept(image, decode(list(ids or ())), prefix.tokens, prefix.nbytes)
            for (image, ids), prefix in self._prefixes.items()
        )

    def look(self, picture: Picture, prompt: str = "", mode: PrefixMode = "kv") -> None:
        """Compute and keep what `stream` will want of `picture`, for prompts that begin so."""
        if mode == "exact":
            self._features(picture)
        else:
            self._block(picture, self._lead(prompt))

    def watch(self, report: Callable[[float], None]) -> AbstractContextManager[None]:
        """While the block runs, tell `report` after each layer how much is read, up to 1."""
        return watched(self.model, report)

    def stream(
        self,
        prompt: str,
        picture: Picture | None,
        sampling: Sampling,
        mode: PrefixMode = "kv",
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[Piece | Reply]:
        """Answer `prompt`: Pieces as they come, then exactly one Reply.

        `cancelled` is read between tokens. Raises UserError where the prompt does not fit.
        """
        started = perf_counter()
        ids = self.processor.prompt_ids(prompt)
        budget = self._token_budget(ids, picture, sampling.max_tokens)
        logits, reused, image_s = self._prefill(ids, prompt, picture, mode, budget)
        computed = self._room.length - reused
        sampler = Sampler(sampling, self.device)
        detokenizer = self.processor.tokenizer.detokenizer()
        text, token_ids, logprobs = "", list[int](), list[float]()
        finish: FinishReason = "length"
        first_token_s = 0.0
        while len(token_ids) < budget:
            if cancelled():
                finish = "cancelled"
                break
            if token_ids:
                logits = self._decode(token_ids[-1])
            token_id, logprob = sampler.pick(logits)
            token_ids.append(token_id)
            logprobs.append(logprob)
            first_token_s = first_token_s or perf_counter() - started
            ended = token_id == self.config.eos_id
            new = "" if ended else detokenizer.push(token_id)
            if ended or len(token_ids) == budget:
                new += detokenizer.flush()
            text += new
            yield Piece(new, token_id, logprob)
            if ended:
                finish = "stop"
                break
        yield Reply(
            prompt=prompt,
            text=text,
            token_ids=tuple(token_ids),
            logprobs=tuple(logprobs),
            finish_reason=finish,
            prefix_mode=mode,
            reused_tokens=reused,
            computed_tokens=computed,
            timing=_timing(image_s, first_token_s, perf_counter() - started, len(token_ids)),
            input_ids=tuple(self._image_ids(picture) + ids),
        )

    def first_logits(self, prompt: str, picture: Picture | None, mode: PrefixMode = "kv") -> Tensor:
        """Scores (V,) of an answer's first token; -inf for tokens that no answer may hold."""
        ids = self.processor.prompt_ids(prompt)
        self._token_budget(ids, picture, wanted=1)
        return self._prefill(ids, prompt, picture, mode, budget=1)[0]

    def scores(self, hidden: Tensor) -> Tensor:
        """Hidden state (1, D) -> scores (V,), -inf for what no answer may hold.

        That is image, bos, pad, and unused rows of the table.
        """
        logits = self.model.text.logits(hidden)[0]
        logits[self._banned] = -torch.inf
        logits[self.processor.tokenizer.size :] = -torch.inf
        return logits

    def features(self, picture: Picture) -> Tensor:
        """What the decoder sees of an image: (1, P, D), computed where it is not kept."""
        features = self._features(picture)[0].features
        assert features is not None
        return features

    def _token_budget(self, ids: list[int], picture: Picture | None, wanted: int) -> int:
        """New tokens that fit behind the prompt, `wanted` at most."""
        prefix = len(ids) + (self.config.image_tokens if picture else 0)
        room = self.config.text.max_positions - prefix
        if room < 1:
            raise UserError(
                f"the prompt is {prefix} tokens long, and the model reads "
                f"{self.config.text.max_positions}: ask something shorter"
            )
        return min(wanted, room)

    def _image_ids(self, picture: Picture | None) -> list[int]:
        """The ids that stand where the image goes, in front of `<bos>`."""
        return [self.config.image_token_id] * self.config.image_tokens if picture else []

    @torch.inference_mode()
    def _prefill(
        self, ids: list[int], prompt: str, picture: Picture | None, mode: PrefixMode, budget: int
    ) -> tuple[Tensor, int, float]:
        """Put the whole prefix into the working cache.

        Returns the logits (V,) of the first token, how many positions came from a kept prefix, and
        the seconds that the image took in this answer.
        """
        if picture is None:
            self._make_room(len(ids) + budget)
            return self.scores(self._extend(self._room, ids)), 0, 0.0
        image_tokens = self.config.image_tokens
        self._make_room(image_tokens + len(ids) + budget)
        if mode == "exact":
            prefix, seconds = self._features(picture)
            last = self._extend(
                self._room, [self.config.image_token_id] * image_tokens + ids, prefix
            )
            return self.scores(last), 0, seconds
        lead = self._lead(prompt)
        prefix, seconds = self._block(picture, lead)
        assert prefix.cache is not None
        assert prefix.last is not None
        self._room.restore(prefix.cache)
        reused = 0 if seconds else prefix.cache.length
        rest = ids[len(lead) :]
        last = self._extend(self._room, rest) if rest else prefix.last
        return self.scores(last), reused, seconds

    @torch.inference_mode()
    def _decode(self, token_id: int) -> Tensor:
        return self.scores(self._extend(self._room, [token_id]))

    def _extend(self, cache: KVCache, ids: list[int], prefix: ImagePrefix | None = None) -> Tensor:
        """Run `ids` as one block behind what `cache` holds; hidden state of the last (1, D)."""
        row = torch.tensor([ids], device=self.device)
        mask = None
        if prefix is not None and not self.config.image_attends_to_text:
            images = self.config.image_tokens
            mask = block_mask([images, len(ids) - images], device=self.device)
        features = None if prefix is None else prefix.features
        return self.model.extend(self.model.embed(row, features), cache, mask)

    def _lead(self, prompt: str) -> tuple[int, ...]:
        """Ids of the prompt's part that belongs to the kept block."""
        if not self.config.image_attends_to_text:
            return ()
        return tuple(self.processor.lead_ids(prompt))

    def _features(self, picture: Picture) -> tuple[ImagePrefix, float]:
        return self._prefixes.get((picture.key, None), lambda: self._encode(picture))

    def _block(self, picture: Picture, lead: tuple[int, ...]) -> tuple[ImagePrefix, float]:
        started = perf_counter()
        features, _ = self._features(picture)

        def compute() -> ImagePrefix:
            ids = [self.config.image_token_id] * self.config.image_tokens + list(lead)
            cache = self._new_cache(len(ids))
            row = torch.tensor([ids], device=self.device)
            last = self.model.extend(self.model.embed(row, features.features), cache)
            return ImagePrefix(cache=cache, last=last)

        prefix, seconds = self._prefixes.get((picture.key, lead), compute)
        return prefix, seconds and perf_counter() - started

    def _encode(self, picture: Picture) -> ImagePrefix:
        pixels = self.processor.pixels(picture.image)
        return ImagePrefix(features=self.model.encode_image(pixels))

    def _new_cache(self, capacity: int) -> KVCache:
        return KVCache(self.config.text, capacity, dtype=self.model.dtype, device=self.model.device)

    def _make_room(self, positions: int) -> None:
        """An empty working cache with room for so many positions."""
        if self._room.capacity < positions:
            self._room = self._new_cache(-(-positions // ROOM_STEP) * ROOM_STEP)
        self._room.rewind(0)


def _timing(image_s: float, first_token_s: float, total_s: float, tokens: int) -> Timing:
    after_first = total_s - first_token_s
    rate = (tokens - 1) / after_first if tokens > 1 and after_first > 0 else 0.0
    return Timing(image_s, first_token_s, total_s, rate)
