"""Gemma's decoder: embeddings and a cache in, hidden states out, logits from the tied table.

Axes: B batch, T new tokens, S all positions attended to, D width, N query heads,
K key-value heads, G query heads per key-value head (N = K * G), H head width, V vocabulary rows.
Source: Gemma Team 2024 (arXiv 2403.08295).

Module names repeat those of the published checkpoints, so that a tensor's name tells its place.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlmchat.config import LayerConfig, TextConfig
from vlmchat.model.cache import KVCache
from vlmchat.model.embedding import Embedding

Rotation = tuple[Tensor, Tensor]  # cosines and sines


class RMSNorm(nn.Module):
    """Scale to unit root mean square, then by (1 + weight) (Zhang & Sennrich 2019, 1910.07467).

    Gemma stores the weight as its distance from one, and multiplies in float32 *before* rounding
    back; Llama rounds first, and the two differ in bfloat16.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        scale = 1.0 + self.weight.float()
        return F.rms_norm(x.float(), x.shape[-1:], scale, self.eps).to(x.dtype)


def rope_table(positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> Rotation:
    """Cosines and sines of the rotary angles: positions (T,) or (B, T) -> two of (…, 1, T, H).

    Su et al. 2021 (arXiv 2104.09864): pair j turns by position * theta^(-2j/H). Angles are taken
    in float32 whatever the model's dtype: bfloat16 cannot tell position 257 from 258. Both halves
    of H hold the same angles, the sines with the sign that `rotate` adds them with.
    """
    pairs = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device)
    angles = positions.float().unsqueeze(-1) * theta ** (-pairs / head_dim)
    angles = angles.unsqueeze(-3)  # room for the head axis
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn each pair (dimension j, dimension j + H/2) of x (B, heads, T, H) by its angle."""
    cos, sin = rotation
    return x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    """Grouped-query attention: q (B, N, T, H) reads k, v (B, K, S, H) -> (B, N, T, H).

    Query head n reads key-value head n // G. Its G query heads are laid out as G * T rows of one
    head, so keys and values are never repeated in memory. `mask` is boolean, (T, S) or
    (B, 1, T, S), True where a row may read a position; None lets every row read every position.
    For one row it may also be (1, S) of numbers to add to the scores.
    """
    batch, heads, rows, width = q.shape
    kv_heads = k.shape[1]
    groups = heads // kv_heads
    q = q.reshape(batch, kv_heads, groups * rows, width)
    if mask is not None and rows > 1:
        mask = torch.cat([mask] * groups, dim=-2)  # (…, G * T, S)
    if mask is not None and rows == 1 and q.is_cuda and mask.is_floating_point():
        return attend_one_row(q, k, v, scale, mask).reshape(batch, heads, rows, width)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    return mixed.reshape(batch, heads, rows, width)


def attend_one_row(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor) -> Tensor:
    """One row: q (B, K, G, H) reads k, v (B, K, S, H), mask (1, S) added: (B, K, G, H).

    Products and a softmax, one after another. CUDA's fused kernels are made for many rows, and take
    two and a half times as long for one under a mask.
    """
    scores = torch.baddbmm(mask, q.flatten(0, 1), k.flatten(0, 1).mT, alpha=scale)
    return torch.bmm(scores.softmax(-1), v.flatten(0, 1)).view(q.shape)


class SideBySide(nn.Module):
    """Linear layers that read the same x: x (…, K) -> a product (…, N) of each.

    They belong to the module that made them, and are named there. What is read together can be
    multiplied as one (see `vlmchat.packing`).
    """

    def __init__(self, *layers: nn.Linear) -> None:
        super().__init__()
        self.layers = layers  # a tuple, whose modules PyTorch does not count as ours

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(layer(x) for layer in self.layers)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions and no biases."""

    def __init__(self, config: LayerConfig) -> None:
        super().__init__()
        self.config = config
        q_width = config.num_heads * config.head_dim
        kv_width = config.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, q_width, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_width, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_width, bias=False)
        self.qkv = SideBySide(self.q_proj, self.k_proj, self.v_proj)
        self.o_proj = nn.Linear(q_width, config.hidden_size, bias=False)

    def forward(
        self,
        x: Tensor,
        rotation: Rotation,
        mask: Tensor | None,
        cache: KVCache | None,
        index: int,
        rows: list[int] | None = None,
    ) -> Tensor:
        q, k, v = (self._heads(product) for product in self.qkv(x))
        turned = rotate(torch.cat((q, k), dim=1), rotation)  # all heads turn alike
        q, k = turned.split((q.shape[1], k.shape[1]), dim=1)  # (B, N, T, H), (B, K, T, H)
        if cache is not None:
            k, v = cache.append(index, k, v)  # (B, K, S, H)
        if rows is not None:
            q, mask = q[:, :, rows], None if mask is None else mask[..., rows, :]
        mixed = attend(q, k, v, self.config.attention_scale, mask)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.config.head_dim)).transpose(1, 2)


class MLP(nn.Module):
    """GeGLU (Shazeer 2020, 2002.05202): one projection gates the other through a tanh GELU."""

    def __init__(self, config: LayerConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.gate_and_up = SideBySide(self.gate_proj, self.up_proj)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_and_up(x)
        return self.down_proj(F.gelu(gate, approximate="tanh") * up)


class DecoderLayer(nn.Module):
    """Attention, then the MLP, each behind a norm and beside a residual path.

    `post_attention_layernorm` is Gemma 1's name for the norm *before the MLP*.
    """

    def __init__(self, config: LayerConfig) -> None:
        super().__init__()
        self.config = config
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(
        self,
        x: Tensor,
        rotation: Rotation,
        mask: Tensor | None,
        cache: KVCache | None,
        index: int,
        rows: list[int] | None = None,
    ) -> Tensor:
        mixed = self.self_attn(self.input_layernorm(x), rotation, mask, cache, index, rows)
        x = mixed + (x if rows is None else x[:, rows])
        return x + self.mlp(self.post_attention_layernorm(x))


class TiedEmbedding(Embedding):
    """One table read both ways: rows for ids, and scores for hidden states."""

    def scores(self, hidden: Tensor) -> Tensor:
        """Hidden states (…, D) -> scores (…, V): how much each row looks like them."""
        return F.linear(hidden, self.weight)


class GemmaDecoder(nn.Module):
    """Embeddings (B, T, D) -> hidden states (B, T, D) -> logits (B, T, V)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = TiedEmbedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(layer) for layer in config.layers)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids (B, T) -> embeddings (B, T, D), times sqrt(D) rounded to the table's dtype."""
        rows = self.embed_tokens(ids)
        return rows * torch.tensor(self.config.hidden_size**0.5, dtype=rows.dtype)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
        rows: list[int] | None = None,
    ) -> Tensor:
        """Run x (B, T, D) at `positions` (T,) or (B, T) behind what `cache` holds.

        With a cache the new keys and values are added to it. `mask` (see `attend`) covers the
        cached positions too; None, which is enough for a prefix that reads all of itself and for
        one new token, lets every row read every position.

        `rows` are those of T whose hidden states are wanted (None: all). The others need no more of
        the last layer than their keys and values.
        """
        tables: dict[tuple[int, float], Rotation] = {}
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, DecoderLayer)
            key = (layer.config.head_dim, layer.config.rope_theta)
            if key not in tables:
                tables[key] = rope_table(positions, *key, dtype=x.dtype)
            last = index == len(self.layers) - 1
            x = layer(x, tables[key], mask, cache, index, rows if last else None)
        if cache is not None:
            cache.advance(positions.shape[-1])
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (…, D) -> scores (…, V) of the next token: the head is the table itself."""
        return self.embed_tokens.scores(hidden)
