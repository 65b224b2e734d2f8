"""Weights as small integers and the numbers that scale them back, in a layout of no machine.

Axes: N outputs, K inputs, G = K / group size.

Both kinds are symmetric: zero stays zero. int8 meets the largest weight of a row. In int4 a scale
has three bits only, which lets many weights be turned back at once in whole numbers (see
`vlmchat.model.int4`); the better of two makes more than good for that.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

GROUPS = (128, 64, 32)  # weights that share a scale in int4: the first that divides K
NUMBERS_AT_ONCE = 2**20  # as many as a processor's cache holds


@dataclass(frozen=True)
class Quantized:
    """Integers `q` and `scale`, such that q * scale is about the weight.

    int8: q (N, K) int8, scale (N, 1) float32. int4: q (N, K/2) uint8 of two numbers each, the one
    of the first half of a row in the low bits, both 8 too large; scale (N, G) bfloat16 of which
    three bits count, and no more than three: `vlmchat.model.int4` builds on that.
    """

    q: Tensor
    scale: Tensor

    @property
    def bits(self) -> int:
        """8 or 4."""
        return 8 if self.q.dtype == torch.int8 else 4

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """The weights (N, K) that the integers stand for, rounded to `dtype`."""
        scale = self.scale.float()
        if self.bits == 8:
            return (self.q.float() * scale).to(dtype)
        whole = unpacked(self.q).float().view(len(scale), scale.shape[1], -1)
        return (whole * scale.unsqueeze(-1)).flatten(1).to(dtype)


def quantize(weight: Tensor, bits: int) -> Quantized:
    """`weight` (N, K) in 8 or 4 bits; some rows at a time, which is faster and smaller."""
    one = _int8 if bits == 8 else _int4
    parts = [
        one(rows.float())
        for rows in torch.split(weight, max(1, NUMBERS_AT_ONCE // weight.shape[1]))
    ]
    return Quantized(torch.cat([p.q for p in parts]), torch.cat([p.scale for p in parts]))


def group_size(inputs: int) -> int:
    """How many neighbouring weights share a scale in int4; odd widths share one a row."""
    return next((size for size in GROUPS if inputs % size == 0), inputs)


def unpacked(q: Tensor) -> Tensor:
    """The numbers -8 to 7 (N, K) int8 of packed pairs (N, K/2)."""
    return torch.cat((q & 15, q >> 4), dim=1).to(torch.int8).sub_(8)


def _int8(rows: Tensor) -> Quantized:
    scale = rows.abs().amax(1, keepdim=True).div_(127).clamp_(min=1e-30)
    return Quantized(rows.div(scale).round_().to(torch.int8), scale)


def _int4(rows: Tensor) -> Quantized:
    """The scale of a group is the one of two that leaves less error (sum of squares).

    One maps the largest weight to -8, the end of the range that reaches further, as nearly as three
    bits can; the next smaller one cuts it off, and has finer steps for all others.
    """
    groups = rows.view(len(rows), -1, group_size(rows.shape[1]))  # (N, G, size)
    low, high = groups.aminmax(dim=2)
    largest = torch.where(-low > high, low, high)
    scale = (largest / -8).to(torch.bfloat16)
    bits = scale.masked_fill_(scale.abs() < 1e-30, 1.0).view(torch.int16)
    bits.add_(16).bitwise_and_(~31)
    whole, error = _whole(groups, scale)
    smaller = (bits - 32).view(torch.bfloat16)
    finer, its_error = _whole(groups, smaller)
    better = its_error < error
    scale = torch.where(better, smaller, scale)
    whole = torch.where(better.unsqueeze(2), finer, whole).flatten(1)
    low_half, high_half = whole.add_(8).to(torch.uint8).chunk(2, dim=1)
    return Quantized(low_half | (high_half << 4), scale)


def _whole(groups: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Groups (N, G, size) in numbers from -8 to 7, and how far off each group then is (N, G)."""
    steps = scale.float().unsqueeze(2)
    whole = groups.div(steps).round_().clamp_(-8, 7)
    return whole, torch.addcmul(groups, whole, steps, value=-1).square_().sum(2)
