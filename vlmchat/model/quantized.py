"""Linear layers whose weights are 8 or 4 bits wide, on their own kernels where there are some.

Axes: R rows (tokens), N outputs, K inputs, G groups of inputs that share a scale.

Two paths each. With few rows the weights are read in their small form, which is what makes them
fast. With many rows (an image) arithmetic is the limit: they are turned back into the dtype of x, a
block at a time that stays in the processor's cache, and multiplied as usual.
"""

import sys
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from vlmchat.model.linear import FastLinear
from vlmchat.quantize import GROUPS, Quantized, group_size, quantize, unpacked

FEW_ROWS = 32
BLOCK = 1024  # outputs turned back at once for a product on the CPU, small enough for its caches
LARGE_BLOCK = 8192  # … and anywhere else, small enough for its memory


class QuantizedLinear(FastLinear):
    """Small integers in a layout of no machine, turned back at each call: right everywhere."""

    q: Tensor
    scale: Tensor

    def __init__(self, inputs: int, outputs: int, bits: int) -> None:
        super().__init__(inputs, outputs)
        self.bits = bits

    def fill(self, weight: Tensor) -> None:
        self.take(quantize(weight, self.bits), weight.device)

    def take(self, quantized: Quantized, device: torch.device) -> None:
        """Take over weights that are quantised already."""
        self.q = quantized.q.to(device)
        self.scale = quantized.scale.to(device)

    @property
    def nbytes(self) -> int:
        return self.q.nbytes + self.scale.nbytes

    def forward(self, x: Tensor) -> Tensor:
        blocks = zip(self.q.split(LARGE_BLOCK), self.scale.split(LARGE_BLOCK), strict=True)
        parts = [F.linear(x, Quantized(*block).dequantized(x.dtype)) for block in blocks]
        return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]


class VnniLinear(QuantizedLinear):
    """int8 weights in oneDNN's layout, times x in 16 bits as two rows of bytes.

    x is not quantised to 8 bits, as is usual with these instructions: it is split into a high and a
    low byte, which lose less than bfloat16 does. One token is then two rows, and the weights are
    read once for both.
    """

    def take(self, quantized: Quantized, device: torch.device) -> None:
        self.q = torch.ops.onednn.qlinear_prepack(quantized.q, None)
        self.scale = quantized.scale.flatten()
        self.zeros = torch.zeros(self.outputs, dtype=torch.int32)

    @property
    def nbytes(self) -> int:
        return self.outputs * self.inputs + self.scale.nbytes

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.inputs)
        count = len(rows)
        if count == 1:
            rows = rows.expand(2, -1)  # four rows of bytes are read faster than two
        halves, scale = _bytes(rows)
        rounded = count > FEW_ROWS and x.dtype == torch.bfloat16
        low, high = self._products(halves, x.dtype if rounded else torch.float32)
        out = torch.add(high, low, alpha=1 / 256).mul_(scale.to(high.dtype))
        return out[:count].to(x.dtype).view(*x.shape[:-1], self.outputs)

    def _products(self, halves: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Bytes (2R, K), 128 too large, times the weights: two of (R, N)."""
        out = torch.ops.onednn.qlinear_pointwise(
            halves, 1.0, 128, self.q, self.scale, self.zeros, None, 1.0, 0, dtype, "none", [], ""
        )
        low, high = out.chunk(2)
        return low, high


class TinygemmLinear(QuantizedLinear):
    """int4 weights in the layout of PyTorch's kernel for few rows: blocks of 64 outputs.

    The layout, (N/64, K, 32) bytes with output j in the low and j + 32 in the high bits, is no
    promise of PyTorch's: `_tinygemm_layout_is_known` looks before anything is built on it.
    """

    def take(self, quantized: Quantized, device: torch.device) -> None:
        convert = torch.ops.aten._convert_weight_to_int4pack_for_cpu
        wide = (unpacked(q).to(torch.int32).add_(8) for q in quantized.q.split(BLOCK))
        self.q = torch.cat([convert(rows, 1) for rows in wide])
        scale = quantized.scale.T.contiguous()  # (G, N)
        self.scale = torch.stack((scale, torch.zeros_like(scale)), dim=2)
        self.group_scale = scale.unsqueeze(1)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.inputs)
        out = self._few(rows) if len(rows) <= FEW_ROWS else self._many(rows)
        return out.view(*x.shape[:-1], self.outputs)

    @property
    def nbytes(self) -> int:
        return super().nbytes + self.group_scale.nbytes

    def _few(self, rows: Tensor) -> Tensor:
        size = self.inputs // self.scale.shape[0]
        return torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.q, size, self.scale)

    def _many(self, rows: Tensor) -> Tensor:
        out = rows.new_empty(len(rows), self.outputs)
        blocks = self.q.view(self.outputs // 64, self.inputs, 32).split(BLOCK // 64)
        room = self._room(len(blocks[0]))
        for start, block in zip(range(0, self.outputs, BLOCK), blocks, strict=True):
            if len(block) < len(blocks[0]):
                room = self._room(len(block))
            self._turn_back(block, start, *room)
            out[:, start : start + BLOCK] = rows @ room[-1]
        return out

    def _room(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Where `_turn_back` writes, made once for many blocks: new memory costs more than work."""
        nibbles = torch.empty(count, self.inputs, 32, dtype=torch.uint8)
        numbers = torch.empty(self.inputs, count, 2, 32, dtype=torch.int8)
        return nibbles, numbers, torch.empty(self.inputs, count * 64, dtype=torch.bfloat16)

    def _turn_back(
        self, block: Tensor, start: int, nibbles: Tensor, numbers: Tensor, weight: Tensor
    ) -> None:
        """Write some blocks (n, K, 32) of 64 outputs each as weights (K, n * 64)."""
        by_half = numbers.view(torch.int64).permute(2, 1, 0, 3)  # (2, n, K, 4): eight in one move
        torch.bitwise_and(block, 15, out=nibbles)
        by_half[0] = nibbles.view(torch.int64)
        torch.bitwise_right_shift(block, 4, out=nibbles)
        by_half[1] = nibbles.view(torch.int64)
        weight.copy_(numbers.sub_(8).view_as(weight))
        scale = self.group_scale[:, :, start : start + weight.shape[1]]  # (G, 1, n * 64)
        weight.view(len(scale), -1, weight.shape[1]).mul_(scale)


def quantized_linear(
    inputs: int, outputs: int, bits: int, device: torch.device, dtype: torch.dtype
) -> QuantizedLinear:
    """The fastest kind of layer that this machine runs rightly for that shape.

    Two int4 numbers make a byte, so an odd number of inputs is kept in int8.
    """
    bits = 8 if inputs % 2 else bits
    if device.type == "cpu" and bits == 8 and _vnni_is_right():
        return VnniLinear(inputs, outputs, bits)
    fits = outputs % 64 == 0 and group_size(inputs) in GROUPS and dtype == torch.bfloat16
    if device.type == "cpu" and bits == 4 and fits and _tinygemm_layout_is_known():
        return TinygemmLinear(inputs, outputs, bits)
    return QuantizedLinear(inputs, outputs, bits)


def _bytes(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (R, K) as bytes (2R, K), the low ones first, both 128 too large; scale (R, 1) of high.

    A row is rows = scale * (high + low / 256), with 15 bits for its largest number.
    """
    largest = torch.linalg.vector_norm(rows, torch.inf, dim=1, keepdim=True, dtype=torch.float32)
    exponent = torch.frexp(largest).exponent  # a power of two, so that bfloat16 can hold the scale
    scale = torch.ldexp(torch.ones_like(largest), exponent - 6)
    whole = (rows / scale).mul_(256).round_().add_(128 * 257).to(torch.int32)  # up to 2^14 away
    low_high = whole.view(torch.uint8).unflatten(1, (-1, 4))[:, :, :2]  # little-endian
    return low_high.permute(2, 0, 1).reshape(-1, rows.shape[1]), scale


@cache
def _vnni_is_right() -> bool:
    """Whether oneDNN multiplies bytes here, exactly: without VNNI instructions sums may saturate.

    Only where it has AVX-512 does it also do so fast.
    """
    if "AVX512" not in torch.backends.cpu.get_cpu_capability() or sys.byteorder != "little":
        return False
    try:
        for inputs, outputs in ((256, 64), (24, 40)):
            layer = VnniLinear(inputs, outputs, bits=8)
            q = torch.full((outputs, inputs), 127, dtype=torch.int8)
            q[::2] = -127
            layer.take(Quantized(q, torch.ones(outputs, 1)), torch.device("cpu"))
            halves = torch.full((6, inputs), 255, dtype=torch.uint8)
            halves[1] = 0
            expected = (halves.float() - 128) @ q.float().T
            if not torch.equal(torch.cat(layer._products(halves, torch.float32)), expected):
                return False
    except (RuntimeError, AttributeError):  # this PyTorch has no such operator, or not for this
        return False
    return True


@cache
def _tinygemm_layout_is_known() -> bool:
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
