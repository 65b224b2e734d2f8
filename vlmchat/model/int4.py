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
NUMBERS_AT_ONCE = 2**20  # weights turned back at once, small enough for a processor's caches
DEPTH = 2048  # inputs that are summed before they are added up
TWO_TWOS = torch.tensor([0x40004000], dtype=torch.int32)  # in bfloat16


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
        at_once = max(1, NUMBERS_AT_ONCE // (64 * self.inputs))
        blocks = self.q.view(-1, self.inputs, 32)
        room = torch.empty(min(at_once, len(blocks)), self.inputs, 32, dtype=torch.int32)
        deep = rows.unflatten(1, (pieces, -1)).transpose(0, 1).repeat(len(room), 1, 1)
        products = rows.new_empty(len(room), pieces, len(rows), 64)
        out = rows.new_empty(len(rows), self.outputs)
        scale = self.scale[:, :, 0].unflatten(1, (-1, 2, 32)).permute(1, 0, 3, 2).flatten(2)
        scale = scale.unsqueeze(2)  # (N/64, G, 1, 64)
        factors = (scale * 8).split(at_once), (scale * -24).split(at_once)
        parts = out.view(torch.int16).unflatten(1, (-1, 2, 32)).split(at_once, dim=1)
        for block, times, less, part in zip(blocks.split(at_once), *factors, parts, strict=True):
            weight = _turned_back(block, times, less, room[: len(block)])
            weight = weight.view(-1, self.inputs // pieces, 64)
            product = products[: len(block)]
            torch.bmm(deep[: len(weight)], weight, out=product.flatten(0, 1))
            if pieces > 1:
                product = product.sum(1, dtype=torch.float32).to(torch.bfloat16)
            pairs = product.view(torch.int32).view(len(block), -1, 32).transpose(0, 1)  # (R, n, 32)
            part[:, :, 0] = pairs  # its low bits: that is output j, and in the high bits j + 32
            part[:, :, 1] = pairs.bitwise_right_shift_(16)
        return out


def _turned_back(block: Tensor, times: Tensor, less: Tensor, room: Tensor) -> Tensor:
    """Bytes (n, K, 32) as weights (n, K, 64), written into `room` (n, K, 32), int32.

    Outputs j and j + 32 lie side by side, as they do in the factors (n, G, 1, 64). A byte becomes
    two bfloat16 without being converted: a number c from 0 to 15 in bits 3 to 6 of 0x4000, which is
    2, gives (16 + c) / 8. The weights are (c - 8) * scale: 8 * scale times that, less 24 * scale.
    """
    pairs = room.copy_(block)
    torch.add(TWO_TWOS, pairs, alpha=2**3 + 2**15, out=pairs)
    numbers = pairs.bitwise_and_(0x40784078).view(torch.bfloat16)
    grouped = numbers.view(len(block), times.shape[1], -1, 64)
    torch.addcmul(less, grouped, times, out=grouped)
    return numbers


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
