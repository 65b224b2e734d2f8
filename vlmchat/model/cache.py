"""The key-value cache: what attention has already computed and need not compute again.

Axes: B batch, K key-value heads, S positions there is room for, T new tokens, H head width.
"""

import torch
from torch import Tensor

from vlmchat.config import TextConfig


class KVCache:
    """Static room for `capacity` positions in every layer, and how many of them are filled.

    Only the key-value heads are stored (one of them in PaliGemma 3B, against eight query heads):
    that is what grouped-query attention saves. The tensors are made once and written in place, so
    their addresses never change while an answer grows.
    """

    def __init__(
        self,
        config: TextConfig,
        capacity: int,
        batch: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shapes = [(batch, layer.num_kv_heads, capacity, layer.head_dim) for layer in config.layers]
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for shape in shapes]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for shape in shapes]
        self.capacity = capacity
        self.length = 0

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write one layer's (B, K, T, H) behind the filled part; return all up to the new end.

        `advance` moves the end once every layer has written.
        """
        end = self.length + keys.shape[2]
        if end > self.capacity:
            raise ValueError(f"{end} positions do not fit a cache of {self.capacity}")
        self.keys[layer][:, :, self.length : end] = keys
        self.values[layer][:, :, self.length : end] = values
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def advance(self, tokens: int) -> None:
        """Count `tokens` more positions as filled."""
        self.length += tokens

    def rewind(self, length: int) -> None:
        """Forget everything behind the first `length` positions."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot rewind a cache of {self.length} positions to {length}")
        self.length = length

    def adopt(self, kept: "KVCache") -> None:
        """Put a copy of what `kept` holds behind the filled part; `kept` stays as it is."""
        end = self.length + kept.length
        for source, room in zip(kept.keys + kept.values, self.keys + self.values, strict=True):
            room[:, :, self.length : end] = source[:, :, : kept.length]
        self.length = end

    def restore(self, kept: "KVCache") -> None:
        """Make a copy of what `kept` holds the filled part, so that `kept` stays as it is."""
        self.rewind(0)
        self.adopt(kept)

    @property
    def nbytes(self) -> int:
        """Bytes of all the room, filled or not."""
        return sum(tensor.nbytes for tensor in self.keys + self.values)


class CacheSlot(KVCache):
    """One position of a cache, which only the device knows: no shape depends on how much is filled.

    `append` writes a single new token at `position` (1,) and returns the first `span` positions of
    the room, filled or not, so what lies behind `position` must be masked.
    """

    def __init__(self, room: KVCache, position: Tensor, span: int) -> None:
        self.keys, self.values = room.keys, room.values
        self.capacity = room.capacity
        self.length = room.length
        self.position = position
        self.span = span

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write one token's (B, K, 1, H); return the (B, K, span, H) around it."""
        self.keys[layer].index_copy_(2, self.position, keys)
        self.values[layer].index_copy_(2, self.position, values)
        return self.keys[layer][:, :, : self.span], self.values[layer][:, :, : self.span]

    def advance(self, tokens: int) -> None:
        """Nothing: the position moves on the device."""
