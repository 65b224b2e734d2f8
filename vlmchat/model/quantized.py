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
BYTES_AT_ONCE = 2**18  # numbers of x split at once, small enough for a processor's caches
EXPONENT = 0x7F800000  # the bits of a float32 that tell the power of two below it
TINY = 2.0**-100
NUMBERS_A_CORE = 2**19  # int4 weights turned back at once, small enough for a processor's caches
WIDE = 4  # blocks of 64 outputs that are worth a product of their own
LARGE_BLOCK = 8192  # outputs turned back at once where memory is the limit


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
        self.scale = quantized.scale.flatten().clone()  # a view would keep the whole file mapped
        self.zeros = torch.zeros(self.outputs, dtype=torch.int32)

    @property
    def nbytes(self) -> int:
        return self.outputs * self.inputs + self.scale.nbytes

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.inputs)
        halves, scale = _bytes(rows)
        if len(rows) == 1:
            halves = halves.repeat(2, 1)  # the kernel reads weights faster for four than for two
        rounded = len(rows) > FEW_ROWS and x.dtype == torch.bfloat16
        products = self._products(halves, x.dtype if rounded else torch.float32)
        low, high = products[: 2 * len(rows)].chunk(2)
        out = torch.add(high, low, alpha=1 / 256)
        out = out.mul_(scale.to(out.dtype)).to(x.dtype)
        return out.view(*x.shape[:-1], self.outputs)

    def _products(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows of bytes (R, K), 128 too large, times the weights: (R, N)."""
        return torch.ops.onednn.qlinear_pointwise(
            rows, 1.0, 128, self.q, self.scale, self.zeros, None, 1.0, 0, dtype, "none", [], ""
        )


class TinygemmLinear(QuantizedLinear):
    """int4 weights in the layout of PyTorch's kernel for few rows: blocks of 64 outputs.

    The layout, (N/64, K, 32) bytes with output j in the low and j + 32 in the high bits, is no
    promise of PyTorch's: `_tinygemm_layout_is_known` looks before anything is built on it.
    """

    def take(self, quantized: Quantized, device: torch.device) -> None:
        convert = torch.ops.aten._convert_weight_to_int4pack_for_cpu
        wide = (unpacked(q).to(torch.int32).add_(8) for q in quantized.q.split(LARGE_BLOCK))
        self.q = torch.cat([convert(rows, 1) for rows in wide])
        scale = quantized.scale.T.contiguous()  # (G, N)
        self.scale = torch.stack((scale, torch.zeros_like(scale)), dim=2)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.inputs)
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

        Each core multiplies by the weights that it has turned back itself, where a core's share is
        wide enough: to fetch them from another core's cache can take longer than to make them.
        """
        cores = torch.get_num_threads()
        at_once = max(1, cores * NUMBERS_A_CORE // (64 * self.inputs))
        blocks = self.q.view(-1, self.inputs, 32)
        scales = self.scale[:, :, 0].unflatten(1, (-1, 2, 32))
        room = torch.empty(min(at_once, len(blocks)) * self.inputs * 32, dtype=torch.int32)
        out = rows.new_empty(len(rows), self.outputs)
        for block, scale, part in zip(
            blocks.split(at_once),
            scales.split(at_once, dim=1),
            out.unflatten(1, (-1, 2, 32)).split(at_once, dim=1),
            strict=True,
        ):
            shares = cores if len(block) % cores == 0 and len(block) // cores >= WIDE else 1
            weight = _turned_back(block, scale, shares, room)
            products = torch.bmm(rows.expand(shares, -1, -1), weight)  # (C, R, n / C * 64)
            products = products.unflatten(2, (-1, 32, 2)).permute(1, 0, 2, 4, 3)
            part.unflatten(1, (shares, -1)).copy_(products)
        return out


def _turned_back(block: Tensor, scale: Tensor, shares: int, room: Tensor) -> Tensor:
    """Bytes (n, K, 32) and scales (G, n, 2, 32) as weights (C, K, n / C * 64), C shares of them.

    Outputs j and j + 32 of a block lie side by side. The weights are written into `room`, int32.
    Each byte becomes two bfloat16 side by side without being converted: a number c from 0 to 15 in
    bits 3 to 6 of 0x4000, which is 2, gives (16 + c) / 8. What the weights are is (c - 8) * scale,
    so 8 * scale times that, less 24 * scale.
    """
    block = block.unflatten(0, (shares, -1)).transpose(1, 2)  # (C, K, n / C, 32)
    pairs = room[: block.numel()].view(block.shape).copy_(block)
    torch.add(torch.tensor([0x40004000], dtype=torch.int32), pairs, alpha=2**3 + 2**15, out=pairs)
    numbers = pairs.bitwise_and_(0x40784078).view(torch.bfloat16)
    numbers = numbers.view(shares, len(scale), -1, 2 * block[0, 0].numel())
    scale = scale.unflatten(1, (shares, -1)).permute(1, 0, 2, 4, 3).flatten(2).unsqueeze(2)
    return torch.addcmul(scale * -24, numbers, scale * 8, out=numbers).flatten(1, 2)


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

    A row is rows = scale * (high + low / 256), with 15 bits for its largest number. The scale is a
    power of two, so that bfloat16 can hold it.
    """
    largest = rows.abs().amax(1, keepdim=True).float()
    power = largest.view(torch.int32).bitwise_and_(EXPONENT).view(torch.float32)
    power.clamp_(min=TINY)  # a row of zeros
    steps = 2**13 / power  # a row times this is less than 2^14
    halves = torch.empty(2, *rows.shape, dtype=torch.uint8)
    middle = torch.tensor(128 * 257 + 0.5)  # 128 more for each byte; a half, as the rest is cut off
    at_once = max(1, BYTES_AT_ONCE // rows.shape[1])
    for part, step, low, high in zip(
        rows.split(at_once),
        steps.split(at_once),
        halves[0].split(at_once),
        halves[1].split(at_once),
        strict=True,
    ):
        whole = torch.addcmul(middle, part.float(), step).to(torch.int32)
        low.copy_(whole)
        high.copy_(whole.bitwise_right_shift_(8))
    return halves.flatten(0, 1), power.div_(2**5)


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
            if not torch.equal(layer._products(halves, torch.float32), expected):
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
