"""The decoder's parts against their formulas, written out another way."""

import math

import pytest
import torch
from torch import nn

from vlmchat.config import LayerConfig, TextConfig
from vlmchat.model.gemma import GemmaDecoder, RMSNorm, attend, attend_one_row, rope_table, rotate
from vlmchat.model.norm import FastRMSNorm


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", [nn.Identity(), FastRMSNorm], ids=["plain", "fast"])
def test_rms_norm_multiplies_before_it_rounds(kind):
    norm = RMSNorm(64, eps=1e-6)
    norm.weight.data = draw(64, seed=1) * 0.3
    norm = kind(norm)
    x = draw(5, 64).bfloat16()
    wide = x.double()
    exact = wide / (wide.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * (1 + norm.weight.double())
    assert (norm(x).double() - exact).abs().max() <= exact.abs().max() * 2**-8
    rounded_first = (exact / (1 + norm.weight.double())).bfloat16() * (1 + norm.weight.bfloat16())
    assert not torch.equal(norm(x), rounded_first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_the_fast_norm_is_the_norm(dtype, size):
    norm = RMSNorm(2048, eps=1e-6)
    norm.weight.data = (draw(2048, seed=1) * 0.3).to(dtype)
    x = (draw(1, 7, 2048) * size + size / 8).to(dtype)  # a mean that is not zero
    plain, fast = norm(x), FastRMSNorm(norm)(x)
    assert fast.shape == plain.shape
    assert fast.is_contiguous()
    if dtype == torch.float32:
        assert torch.equal(fast, plain)
    else:
        other = fast != plain
        assert other.float().mean() < 1e-3  # roundings that were close
        assert (fast - plain).abs().max() <= plain.abs().max() * 2**-7


@pytest.mark.parametrize(
    ("width", "dtype", "scale"),
    [
        (2048, torch.float32, 45.254834),
        (2048, torch.bfloat16, 45.25),
        (2048, torch.float16, 45.25),
        (2304, torch.bfloat16, 48.0),
        (2560, torch.bfloat16, 50.5),
        (3584, torch.float16, 59.875),
    ],
)
def test_embeddings_are_scaled_by_the_rounded_root_of_the_width(width, dtype, scale):
    decoder = GemmaDecoder(TextConfig(3, width, 16, 1e-6, ())).to(dtype)
    decoder.embed_tokens.weight.data.fill_(1.0)
    assert decoder.embed(torch.tensor([[2]]))[0, 0, 0].item() == pytest.approx(scale, rel=1e-7)


def test_rotation_turns_each_pair_by_its_angle():
    x, width, theta = draw(1, 2, 3, 8), 8, 100.0
    turned = rotate(x, rope_table(torch.tensor([0, 5, 900]), width, theta, torch.float32))
    for t, position in enumerate((0, 5, 900)):
        for j in range(width // 2):
            angle = position * theta ** (-2 * j / width)
            a, b = x[0, 1, t, j].item(), x[0, 1, t, j + width // 2].item()
            wanted = a * math.cos(angle) - b * math.sin(angle)
            assert turned[0, 1, t, j].item() == pytest.approx(wanted, abs=1e-4)


def test_rotation_depends_on_distance_alone():
    q, k = draw(1, 1, 1, 16), draw(1, 1, 1, 16, seed=1)

    def score(i: int, j: int) -> float:
        rows = [
            rotate(x, rope_table(torch.tensor([p]), 16, 1e4, torch.float32))
            for x, p in ((q, i), (k, j))
        ]
        return (rows[0] * rows[1]).sum().item()

    assert score(7, 3) == pytest.approx(score(107, 103), abs=1e-4)
    assert score(7, 3) != pytest.approx(score(8, 3), abs=1e-2)


@pytest.mark.parametrize("masked", [False, True])
def test_grouped_query_attention_equals_repeated_heads_in_a_loop(masked):
    batch, heads, kv_heads, rows, positions, width = 2, 6, 2, 3, 5, 4
    q = draw(batch, heads, rows, width)
    k, v = draw(batch, kv_heads, positions, width, seed=1), draw(batch, kv_heads, 5, width, seed=2)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    mixed = attend(q, k, v, 0.3, mask if masked else None)
    for b in range(batch):
        for head in range(heads):
            kv_head = head // (heads // kv_heads)
            scores = q[b, head] @ k[b, kv_head].T * 0.3
            if masked:
                scores = scores.masked_fill(~mask, -torch.inf)
            wanted = scores.softmax(-1) @ v[b, kv_head]
            assert torch.allclose(mixed[b, head], wanted, atol=1e-6)


def test_attention_of_one_row_by_hand_equals_the_fused_one():
    q, k, v = draw(2, 8, 1, 16), draw(2, 2, 9, 16, seed=1), draw(2, 2, 9, 16, seed=2)
    mask = torch.zeros(1, 7).masked_fill(torch.arange(7) > 4, -torch.inf)
    wanted = attend(q, k[:, :, :5], v[:, :, :5], 0.3, None)
    k, v = k[:, :, :7], v[:, :, :7]
    assert torch.allclose(attend(q, k, v, 0.3, mask), wanted, atol=1e-6)
    by_hand = attend_one_row(q.reshape(2, 2, 4, 16), k, v, 0.3, mask)
    assert torch.allclose(by_hand.reshape(q.shape), wanted, atol=1e-6)


def test_each_layer_follows_its_own_config():
    """Two layers of different heads and rotary bases stand in one decoder."""
    first = LayerConfig(16, 32, 4, 1, 8, 1e-6, 1e4, 8**-0.5)
    second = LayerConfig(16, 24, 2, 2, 6, 1e-6, 1e6, 6**-0.5)
    decoder = GemmaDecoder(TextConfig(10, 16, 32, 1e-6, (first, second)))
    hidden = decoder(decoder.embed(torch.tensor([[1, 2, 3]])), torch.arange(3))
    assert hidden.shape == (1, 3, 16)
    assert decoder.layers[1].self_attn.k_proj.weight.shape == (12, 16)
