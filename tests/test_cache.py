"""The cache holds what was written, gives back views, and refuses what does not fit."""

import pytest
import torch

from vlmchat.config import LayerConfig, TextConfig
from vlmchat.model.cache import CacheSlot, KVCache

CONFIG = TextConfig(10, 16, 64, 1e-6, (LayerConfig(16, 32, 4, 2, 8, 1e-6, 1e4, 1.0),) * 3)


def filled(capacity: int, tokens: int) -> KVCache:
    cache = KVCache(CONFIG, capacity)
    for layer in range(3):
        new = torch.full((1, 2, tokens, 8), layer + 1.0)
        cache.append(layer, new, -new)
    cache.advance(tokens)
    return cache


def test_append_returns_all_positions_up_to_the_new_end():
    cache = filled(6, 2)
    keys, values = cache.append(0, torch.full((1, 2, 1, 8), 9.0), torch.zeros(1, 2, 1, 8))
    assert keys[0, 0, :, 0].tolist() == [1.0, 1.0, 9.0]
    assert values[0, 0, :, 0].tolist() == [-1.0, -1.0, 0.0]
    assert cache.length == 2  # until every layer has written


def test_restore_copies_and_leaves_the_kept_alone():
    kept, room = filled(2, 2), KVCache(CONFIG, 5)
    room.restore(kept)
    room.append(1, torch.full((1, 2, 3, 8), 7.0), torch.zeros(1, 2, 3, 8))
    room.advance(3)
    room.rewind(0)
    room.append(1, torch.full((1, 2, 2, 8), 5.0), torch.zeros(1, 2, 2, 8))
    assert kept.keys[1].unique().tolist() == [2.0]


def test_rewound_positions_are_written_over():
    cache = filled(4, 3)
    cache.rewind(1)
    keys, _ = cache.append(0, torch.full((1, 2, 1, 8), 9.0), torch.zeros(1, 2, 1, 8))
    assert keys[0, 0, :, 0].tolist() == [1.0, 9.0]


def test_only_kv_heads_are_stored():
    assert filled(4, 1).nbytes == 3 * 2 * (2 * 4 * 8) * 4  # layers, k and v, numbers, float32


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="5 positions do not fit a cache of 4"):
        filled(4, 3).append(0, torch.zeros(1, 2, 2, 8), torch.zeros(1, 2, 2, 8))
    with pytest.raises(ValueError, match="cannot rewind"):
        filled(4, 3).rewind(4)


def test_a_slot_writes_where_the_device_says_and_returns_its_span():
    room = filled(6, 2)
    slot = CacheSlot(room, torch.tensor([3]), span=5)
    keys, values = slot.append(1, torch.full((1, 2, 1, 8), 9.0), torch.full((1, 2, 1, 8), 8.0))
    assert keys[0, 1, :, 0].tolist() == [2.0, 2.0, 0.0, 9.0, 0.0]
    assert values[0, 1, :, 0].tolist() == [-2.0, -2.0, 0.0, 8.0, 0.0]
    slot.advance(1)
    assert room.length == 2
