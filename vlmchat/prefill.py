"""What is read before an answer's first token: an image once, a prompt behind it.

Two ways to treat the image's prefix (drawn in `vlmchat.model.masks`):

- `exact`: image and prompt are one block that reads all of itself, as the model was trained. The
  image's keys depend on the prompt, so only its features are kept between questions.
- `kv`: a block of image tokens, `<bos>` and the task's fixed words is kept with its keys and
  values; the rest of a prompt is computed behind it. On a PaliGemma this is an approximation
  (the image does not read the question), and exact where a prompt is nothing but fixed words. On a
  model whose images never read text the block is the image alone, and the modes are equal.

Axes: P image tokens, D decoder width.
"""

from collections.abc import Sequence
from time import perf_counter

import torch
from torch import Tensor

from vlmchat.answer import PrefixMode
from vlmchat.config import ModelConfig
from vlmchat.images import Picture
from vlmchat.model.cache import KVCache
from vlmchat.model.masks import block_mask
from vlmchat.model.paligemma import PaliGemma
from vlmchat.prefix import ImagePrefix, Kept, PrefixStore
from vlmchat.processor import Processor


class Prefill:
    """Fills a working cache with image and prompt, and keeps of images what can be used again."""

    def __init__(self, model: PaliGemma, processor: Processor, cache_bytes: int) -> None:
        self.model = model
        self.processor = processor
        self._prefixes = PrefixStore(cache_bytes)

    @property
    def config(self) -> ModelConfig:
        """The effective configuration of the model."""
        return self.model.config

    @property
    def kept(self) -> tuple[Kept, ...]:
        """The kept prefixes, least recently used first."""
        decode = self.processor.tokenizer.decode
        return tuple(
            Kept(image, decode(list(ids or ())), prefix.tokens, prefix.nbytes)
            for (image, ids), prefix in self._prefixes.items()
        )

    def fill(
        self, room: KVCache, ids: list[int], prompt: str, picture: Picture | None, mode: PrefixMode
    ) -> tuple[Tensor, int, float]:
        """Put image and prompt, whose ids are given, into the empty `room`.

        Returns the last hidden state (1, D), how many positions came from a kept prefix, and the
        seconds that the image took now.
        """
        if picture is None:
            return self._extend(room, ids), 0, 0.0
        if mode == "exact":
            prefix, seconds = self.encoded(picture)
            whole = [self.config.image_token_id] * self.config.image_tokens + ids
            return self._extend(room, whole, prefix), 0, seconds
        lead = self.lead(prompt)
        rest = ids[len(lead) :]
        prefix, seconds, last = self.block(picture, lead, rest, room)
        if last is not None:
            return last, 0, seconds
        assert prefix.cache is not None
        assert prefix.last is not None
        room.restore(prefix.cache)
        reused = 0 if seconds else prefix.cache.length
        return self._extend(room, rest) if rest else prefix.last, reused, seconds

    def lead(self, prompt: str) -> tuple[int, ...]:
        """Ids of the prompt's part that belongs to the kept block."""
        if not self.config.image_attends_to_text:
            return ()
        return tuple(self.processor.lead_ids(prompt))

    def features(self, picture: Picture) -> Tensor:
        """What the decoder sees of an image: (1, P, D), computed where it is not kept."""
        features = self.encoded(picture)[0].features
        assert features is not None
        return features

    def encoded(self, picture: Picture) -> tuple[ImagePrefix, float]:
        """The features of an image, and the seconds that they took now (0 where they were kept)."""
        return self._prefixes.get((picture.key, None), lambda: self._encode(picture))

    def block(
        self,
        picture: Picture,
        lead: tuple[int, ...],
        rest: Sequence[int] = (),
        room: KVCache | None = None,
    ) -> tuple[ImagePrefix, float, Tensor | None]:
        """The block of image and `lead`, and the seconds that it took now (0 where it was kept).

        A block that is not kept is computed in `room` (None: a cache of its own) with the `rest` of
        the prompt behind it, in one pass: the third result is the hidden state (1, D) at its end.
        That is None, and `room` as it was, where the block was kept.
        """
        started = perf_counter()
        features = self.features(picture)
        last: Tensor | None = None

        def read() -> ImagePrefix:
            nonlocal last
            cache = self.new_cache(self.config.image_tokens + len(lead)) if room is None else room
            prefix, last = self._read(cache, features, lead, rest)
            return prefix

        prefix, seconds = self._prefixes.get((picture.key, lead), read)
        return prefix, seconds and perf_counter() - started, last

    def _read(
        self, room: KVCache, features: Tensor, lead: tuple[int, ...], rest: Sequence[int]
    ) -> tuple[ImagePrefix, Tensor]:
        """Read a block and what is behind it into `room`; the block, the last hidden state (1, D).

        The block does not read the rest, so it is what it would be alone, to rounding, and every
        weight is read once for both.
        """
        block = [self.config.image_token_id] * self.config.image_tokens + list(lead)
        row = torch.tensor([[*block, *rest]], device=self.model.device)
        mask = block_mask([len(block), len(rest)], device=self.model.device) if rest else None
        positions = torch.arange(row.shape[1], device=self.model.device)
        room.rewind(0)
        ends = [len(block) - 1, row.shape[1] - 1]
        hidden = self.model.text(self.model.embed(row, features), positions, mask, room, ends)
        kept = self.new_cache(len(block))
        room.rewind(len(block))
        kept.restore(room)
        room.advance(len(rest))
        return ImagePrefix(cache=kept, last=hidden[:, 0].clone()), hidden[:, 1]

    def _extend(self, cache: KVCache, ids: list[int], prefix: ImagePrefix | None = None) -> Tensor:
        """Run `ids` as one block behind what `cache` holds; hidden state of the last (1, D)."""
        row = torch.tensor([ids], device=self.model.device)
        mask = None
        if prefix is not None and not self.config.image_attends_to_text:
            images = self.config.image_tokens
            mask = block_mask([images, len(ids) - images], device=self.model.device)
        features = None if prefix is None else prefix.features
        return self.model.extend(self.model.embed(row, features), cache, mask)

    def _encode(self, picture: Picture) -> ImagePrefix:
        pixels = self.processor.pixels(picture.image)
        return ImagePrefix(features=self.model.encode_image(pixels))

    def new_cache(self, capacity: int) -> KVCache:
        """An empty cache for the model, with room for `capacity` positions."""
        return KVCache(self.config.text, capacity, dtype=self.model.dtype, device=self.model.device)
