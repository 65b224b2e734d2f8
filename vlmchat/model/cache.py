"""The key-value cache: what attention has already computed and need not compute again.

Axes: B batch, K key-value heads, S positions there is room for, T new tokens, H head width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from vlmchat.config import TextConfig


@dataclass(frozen=True)
class Snapshot:
    """Keys and values of a cache's first positions, copied out; (B, K, length, H) a layer."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def length(self) -> int:
        """Positions held."""
        return self.keys[0].shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes that the copied keys and values take."""
        return sum(tensor.nbytes for tensor in self.keys + self.values)


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

    def snapshot(self) -> Snapshot:
        """Copy the filled part out, to be kept while this cache is used for something else."""
        return Snapshot(
            keys=tuple(keys[:, :, : self.length].clone() for keys in self.keys),
            values=tuple(values[:, :, : self.length].clone() for values in self.values),
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Make `snapshot` the filled part."""
        for kept, room in zip(
            snapshot.keys + snapshot.values, self.keys + self.values, strict=True
        ):
            room[:, :, : snapshot.length] = kept
        self.length = snapshot.length
