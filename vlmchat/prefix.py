"""What is kept of the images that were looked at, and for how long.

Axes: P image tokens, D decoder width.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

from vlmchat.model.cache import KVCache

PrefixKey = tuple[str, tuple[int, ...] | None]  # image, ids behind it (None: features alone)


@dataclass(frozen=True)
class Kept:
    """One kept prefix, as `/show` lists it. `words` are the fixed words behind the image."""

    image: str
    words: str
    tokens: int
    nbytes: int


@dataclass(frozen=True)
class ImagePrefix:
    """What stays of an image: its features (1, P, D), or a block's keys and values.

    `last` (1, D) is the hidden state of the block's last position: all that a prompt with nothing
    behind the block needs for its first token.
    """

    features: Tensor | None = None
    cache: KVCache | None = None
    last: Tensor | None = None

    @property
    def tokens(self) -> int:
        """Positions whose keys and values are held."""
        return self.cache.length if self.cache else 0

    @property
    def nbytes(self) -> int:
        """Bytes that keeping it takes."""
        tensors = [t.nbytes for t in (self.features, self.last) if t is not None]
        return sum(tensors) + (self.cache.nbytes if self.cache else 0)


class PrefixStore:
    """Prefixes by key, the least recently used let go first when they outgrow a byte budget.

    Safe to use from several threads: a prefix is computed once, by whoever asks first, and is kept
    only when it is whole. One that is kept can be had while another is being computed.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._kept: OrderedDict[PrefixKey, ImagePrefix] = OrderedDict()
        self._lock = threading.Lock()  # held for a moment, around `_kept`
        self._computing = threading.Lock()  # held for as long as a prefix takes

    def get(self, key: PrefixKey, compute: Callable[[], ImagePrefix]) -> tuple[ImagePrefix, float]:
        """The prefix under `key`, and the seconds it took to compute now (0 where it was kept)."""
        prefix = self._find(key)
        if prefix is not None:
            return prefix, 0.0
        with self._computing, torch.inference_mode():
            prefix = self._find(key)  # another thread may have computed it meanwhile
            if prefix is not None:
                return prefix, 0.0
            started = perf_counter()
            prefix = compute()
            self._keep(key, prefix)
            return prefix, perf_counter() - started

    def _find(self, key: PrefixKey) -> ImagePrefix | None:
        """The prefix under `key`, which is now the most recently used, if it is kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _keep(self, key: PrefixKey, prefix: ImagePrefix) -> None:
        """Keep it, and let the oldest go until the rest fits; the newest always stays."""
        with self._lock:
            self._kept[key] = prefix
            held = sum(each.nbytes for each in self._kept.values())
            while len(self._kept) > 1 and held > self.budget:
                _, oldest = self._kept.popitem(last=False)
                held -= oldest.nbytes

    def items(self) -> list[tuple[PrefixKey, ImagePrefix]]:
        """All that is kept, least recently used first."""
        with self._lock:
            return list(self._kept.items())
