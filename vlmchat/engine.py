"""The one loop: look at an image once, then answer prompts about it, token by token."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from vlmchat.answer import Draft, Piece, PrefixMode, Reply, Timing
from vlmchat.batching import answer_together
from vlmchat.config import ModelConfig
from vlmchat.decode import Decoder, EagerDecoder, fastest
from vlmchat.errors import UserError
from vlmchat.headway import watched
from vlmchat.images import Picture
from vlmchat.model.paligemma import PaliGemma
from vlmchat.packing import Quantize, parameter_count, quantization, weight_bytes
from vlmchat.prefill import Prefill
from vlmchat.prefix import Kept
from vlmchat.processor import Processor
from vlmchat.sampling import Sampler, Sampling

__all__ = ["Engine", "Piece", "PrefixMode", "Reply", "Timing"]

CACHE_BYTES = 2**30  # for kept prefixes: 180 images of 224 pixels, or 11 of 896, in bfloat16
ROOM_STEP = 256  # the working cache grows by whole steps, so that it is seldom made anew


class Engine:
    """A model and its processor, the prefixes it keeps, and the loop that writes answers.

    `look` may run in another thread while the person types. An interrupt anywhere leaves nothing
    half-done behind: a prefix is kept only once it is whole, and each answer starts its cache anew.
    `prefill` reads images and prompts, `decoder` makes one token out of the one before it;
    `accelerate` puts a faster one there.
    """

    def __init__(
        self, model: PaliGemma, processor: Processor, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self.model = model
        self.processor = processor
        self.prefill = Prefill(model, processor, cache_bytes)
        self._room = self.prefill.new_cache(0)
        self._turn = 0  # prefixes that the room has held
        config = model.config
        never = (config.image_token_id, config.bos_id, config.pad_id)
        rows = config.text.vocab_size  # tables of 257152 rows have none for the image token
        self._banned = torch.tensor([i for i in never if i < rows], device=model.device)
        self.decoder: Decoder = EagerDecoder(model, self.scores)

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
        return parameter_count(self.model)

    @property
    def weight_bytes(self) -> int:
        """Bytes that those numbers take."""
        return weight_bytes(self.model)

    @property
    def quantize(self) -> Quantize:
        """How the decoder's weights are quantised: none, int8 or int4."""
        return quantization(self.model)

    @property
    def kept(self) -> tuple[Kept, ...]:
        """The kept prefixes, least recently used first."""
        return self.prefill.kept

    def accelerate(self, compiled: bool = False) -> tuple[str, ...]:
        """Decode with CUDA graphs where there is CUDA, and with a compiled step if wanted.

        Takes seconds with a compiler and a moment without. The answers stay the same. Returns what
        could not be had, one line each.
        """
        self._make_room(self.config.image_tokens + 2 * ROOM_STEP)
        self.decoder, notices = fastest(self.model, self.scores, self._room, compiled)
        return notices

    def look(self, picture: Picture, prompt: str = "", mode: PrefixMode = "kv") -> None:
        """Compute and keep what `stream` will want of `picture`, for prompts that begin so."""
        if mode == "exact":
            self.prefill.encoded(picture)
        else:
            self.prefill.block(picture, self.prefill.lead(prompt))

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

        `cancelled` is read between tokens. Raises UserError where the prompt does not fit, and
        RuntimeError where another answer was begun before this one was read to its end.
        """
        ids = self.processor.prompt_ids(prompt)
        draft = self.draft(prompt, ids, picture, sampling)
        logits, reused, image_s = self._prefill(ids, prompt, picture, mode, draft.budget)
        computed, turn = self._room.length - reused, self._turn
        while draft.finish is None:
            if cancelled():
                draft.cancel()
                break
            if turn != self._turn:
                raise RuntimeError("another answer took this one's place: read one to its end")
            if draft.token_ids:
                yield draft.add(*self.decoder.next(self._room, draft.token_ids[-1], draft.sampler))
            else:
                yield draft.choose(logits)
        yield draft.reply(mode, reused, computed, image_s)

    def stream_together(
        self,
        prompts: Sequence[str],
        picture: Picture | None,
        sampling: Sampling,
        mode: PrefixMode = "kv",
        cancelled: Callable[[], bool] = lambda: False,
    ) -> list[Iterator[Piece | Reply]]:
        """Answer several prompts about one picture at once: a stream each, as `stream` gives.

        To read from one takes all of them forward. Every weight is read once for all of them, so
        that eight answers take little longer than one (see `vlmchat.batching`).
        """
        return answer_together(self, prompts, picture, sampling, mode, cancelled)

    def draft(
        self, prompt: str, ids: list[int], picture: Picture | None, sampling: Sampling
    ) -> Draft:
        """An answer to `prompt`, whose ids are given, before its first token.

        Raises UserError where the prompt does not fit.
        """
        return Draft(
            prompt,
            self._image_ids(picture) + ids,
            self._token_budget(ids, picture, sampling.max_tokens),
            Sampler(sampling, self.device),
            self.processor.tokenizer.detokenizer(),
            self.config.eos_id,
        )

    def first_logits(self, prompt: str, picture: Picture | None, mode: PrefixMode = "kv") -> Tensor:
        """Scores (V,) of an answer's first token; -inf for tokens that no answer may hold."""
        ids = self.processor.prompt_ids(prompt)
        self._token_budget(ids, picture, wanted=1)
        return self._prefill(ids, prompt, picture, mode, budget=1)[0]

    def scores(self, hidden: Tensor) -> Tensor:
        """Hidden states (…, D) -> scores (…, V), -inf for what no answer may hold.

        That is image, bos, pad, and unused rows of the table.
        """
        logits = self.model.text.logits(hidden)
        logits.index_fill_(-1, self._banned, -torch.inf)
        logits[..., self.processor.tokenizer.size :].fill_(-torch.inf)
        return logits

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
        self._make_room(len(self._image_ids(picture)) + len(ids) + budget)
        last, reused, seconds = self.prefill.fill(self._room, ids, prompt, picture, mode)
        return self.scores(last[0]), reused, seconds

    def _make_room(self, positions: int) -> None:
        """An empty working cache with room for so many positions."""
        if self._room.capacity < positions:
            self._room = self.prefill.new_cache(-(-positions // ROOM_STEP) * ROOM_STEP)
        self._room.rewind(0)
        self._turn += 1
