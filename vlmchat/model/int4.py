"""int4 weights on PyTorch's kernel for few rows, and turned back in pieces for many.

Axes: R rows (tokens), N outputs, K inputs, G groups of inputs that share a scale, n blocks of 64
outputs.
"""

from functools import cache

import torch
from torch import Tensor

from vlmchat.model.quantized import LARGE_BLOCK, QuantizedLinear
from vlmchat.quantize import Quantized, quantize, unpacked

FEW_ROWS = 32
NUMBERS_PER_CORE = 2**19  # weights turned back at once, small enough for a core's caches
PUT_AT_ONCE = 16  # times as many are multiplied before their products are put in order
DEPTH = 4096  # inputs that are summed before they are added up
NOTHING = torch.zeros(1, dtype=torch.int32)


class TinygemmLinear(QuantizedLinear):
    """int4 weights in the layout of PyTorch's kernel for few rows: blocks of 64 outputs.

    The layout, (N/64, K, 32) bytes with output j in the low and j + 32 in the high bits, is no
    promise of PyTorch's: `layout_is_known` looks before anything is built on it.
    """

    def take(self, quantized: Quantized, device: torch.device) -> None:
        convert = torch.ops.aten._convert_weight_to_int4pack_for_cpu
        wide = (unpacked(q).to(torch.int32).add_(8) for q in quantized.q.split(LARGE_BLOCK))
        self.q = torch.cat([convert(rows, 1) for rows in wide])
        scale = quantized.scale.T.contiguous()  # (G, N)
        self.scale = torch.stack((scale, torch.zeros_like(scale)), dim=2)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.inputs).contiguous()
        out = self._few(rows) if len(rows) <= FEW_ROWS else self._many(rows)
        return out.view(*x.shape[:-1], self.outputs)

    def _few(self, rows: Tensor) -> Tensor:
        """Four rows at a time, which is how the kernel works; it wastes what an odd end lacks."""
        size = self.inputs // len(self.scale)
        parts = rows.tensor_split([len(rows) // 4 * 4]) if len(rows) > 4 else (rows,)
        product = torch.ops.aten._weight_int4pack_mm_for_cpu
        out = [product(part, self.q, size, self.scale) for part in parts if len(part)]
        return torch.cat(out) if len(out) > 1 else out[0]

    def _many(self, rows: Tensor) -> Tensor:
        """Some blocks of outputs at a time, so that the weights between are still in the caches.

        Blocks, and pieces of deep ones, are multiplied side by side, which leaves each core with
        those that it has turned back itself: to fetch them from another core's cache can take
        longer than to make them.
        """
        pieces = self.inputs // DEPTH if self.inputs % DEPTH == 0 else 1
        groups = len(self.scale) // pieces  # g, of a piece
        blocks = self.q.view(-1, pieces, self.inputs // pieces, 32)
        numbers = NUMBERS_PER_CORE * torch.get_num_threads()
        at_once = min(len(blocks), max(1, numbers // (64 * self.inputs)))
        x = _with_sums(rows, pieces, groups)  # (P, R, k + 2g)
        x = x.repeat(at_once, 1, 1) if at_once > 1 else x
        room = torch.empty(at_once, pieces, x.shape[2], 32, dtype=torch.int32)
        several = min(len(blocks), PUT_AT_ONCE * at_once)
        products = rows.new_empty(several, len(rows), 64)
        halves = torch.empty(several, 2, len(rows), 32, dtype=torch.int16)
        out = rows.new_empty(len(rows), self.outputs)
        # outputs j and j + 32 of a block lie side by side while it is turned back and multiplied
        scales = self.scale[:, :, 0].view(torch.int16).view(pieces, groups, -1, 2, 32)
        scales = scales.permute(2, 0, 1, 4, 3).flatten(3)  # (n, P, g, 64)
        shares = out.view(torch.int16).view(len(rows), -1, 2, 32).transpose(0, 1)
        parts = (each.split(several) for each in (blocks, scales, shares))
        for some, scale, share in zip(*parts, strict=True):
            product, half = products[: len(some)], halves[: len(some)]
            smaller = (each.split(at_once) for each in (some, *_factors(scale), product))
            for block, step, first, offset, result in zip(*smaller, strict=True):
                weight = _turned_back(block, step, first, offset, room[: len(block)])
                _multiply(x[: len(block) * pieces], weight, out=result)
            pairs = product.view(torch.int32)
            half[:, 0] = pairs  # its low bits: that is output j, and in the high bits j + 32
            half[:, 1] = pairs.bitwise_right_shift_(16)
            share.copy_(half.transpose(1, 2))
        return out


def _with_sums(rows: Tensor, pieces: int, groups: int) -> Tensor:
    """Rows (R, K) as pieces (P, R, k + 2g): behind each are the sums of its groups.

    They are split into what bfloat16 holds of them and what that leaves, 16 bits in all.
    """
    parts = rows.unflatten(1, (pieces, -1))  # (R, P, k)
    sums = parts.unflatten(2, (groups, -1)).sum(3, dtype=torch.float32)
    high = sums.to(rows.dtype)
    behind = (each.transpose(0, 1) for each in (parts, high, (sums - high).to(rows.dtype)))
    return torch.cat(tuple(behind), dim=2)


def _factors(scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of scales' bits (n, P, g, 64): step and first (n, P, g, 1, 64), int16, and the offset.

    A scale is m * 2^t, where m is 4 to 7 or -7 to -4: three bits. A weight q * scale is then
    (192 + m * q) * 2^t less an offset of 192 * 2^t. For q from -8 to 7 the number in brackets is
    between 128 and 256, where a bfloat16 counts in ones: its bits start at `first`, for -8, and go
    on in equal steps of m. To take the offset off is left to the sums behind a row.
    """
    sign = (scale >> 15).bitwise_or_(1)
    step = (scale >> 5).bitwise_and_(3).bitwise_or_(4).mul_(sign).unsqueeze(3)
    offset = (scale & 0x7F80).add_((5 << 7) + 0x40)  # of 4 * 2^t: times 2^5, and then 1.5
    first = torch.sub(offset.unsqueeze(3), step, alpha=8)
    return step, first, offset.view(torch.bfloat16).neg_().unsqueeze(2)


def _turned_back(
    block: Tensor, step: Tensor, first: Tensor, offset: Tensor, room: Tensor
) -> Tensor:
    """Bytes (n, P, k, 32) as weights (n, P, k + 2g, 64), written into `room`, int32.

    No number is converted: the two of a byte are moved apart, and then count from `first` in steps.
    The last 2g inputs are those for the sums.
    """
    groups = step.shape[2]
    pairs = room[:, :, : block.shape[2]].copy_(block)
    torch.add(NOTHING, pairs, alpha=1 + 2**12, out=pairs).bitwise_and_(0x000F000F)
    numbers = pairs.view(torch.int16).unflatten(2, (groups, -1))
    torch.addcmul(first, numbers, step, out=numbers)
    weight = room.view(torch.bfloat16)
    weight[:, :, block.shape[2] :].unflatten(2, (2, groups)).copy_(offset)
    return weight


def _multiply(x: Tensor, weight: Tensor, out: Tensor) -> None:
    """Pieces x (n * P, R, k) times weights (n, P, k, 64), the pieces added up: out (n, R, 64)."""
    blocks, pieces = weight.shape[:2]
    weight = weight.flatten(0, 1)
    if pieces == 1:
        torch.bmm(x, weight, out=out)
    else:
        out.copy_(torch.bmm(x, weight).unflatten(0, (blocks, pieces)).sum(1, dtype=torch.float32))


@cache
def layout_is_known() -> bool:
    """Whether the int4 kernel exists here and packs weights as TinygemmLinear reads them."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(128, 64, generator=generator)
    x = torch.randn(2, 64, generator=generator, dtype=torch.bfloat16)
    quantized = quantize(weight, bits=4)
    layer = TinygemmLinear(64, 128, bits=4)
    try:
        layer.take(quantized, torch.device("cpu"))
        few, many = layer._few(x), layer._many(x)
    except (RuntimeError, AttributeError):  # this PyTorch has no such operator, or not for this
        return False
    exact = x.double() @ quantized.dequantized(torch.float64).T
    return all(bool((out - exact).abs().max() < exact.abs().max() / 64) for out in (few, many))
