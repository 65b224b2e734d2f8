"""Linear layers on kernels of our own (`kernels.c`), which a C compiler makes for this processor.

With one row PyTorch's kernels read weights at a half to two thirds of the memory's speed, these at
all of it. Quantised weights they multiply with many rows as fast as oneDNN does those in bfloat16.

Axes: R rows (tokens), N outputs, K inputs, G groups of inputs that share a scale.
"""

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from vlmchat.compiler import NotCompiledError, compiled
from vlmchat.model.linear import PackedLinear
from vlmchat.model.quantized import QuantizedLinear
from vlmchat.quantize import Quantized, quantize

SOURCE = Path(__file__).with_name("kernels.c")
OUTPUTS = 64  # of a block


class Kernels:
    """The functions of `kernels.c`, for tensors on the CPU that lie without gaps."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library

    def in_blocks(self, quantized: Quantized) -> tuple[Tensor, Tensor]:
        """Integers and scales in the order in which `quantized_product` reads them."""
        q, scale = quantized.q.contiguous(), quantized.scale
        outputs, inputs = len(q), q.shape[1] * 8 // quantized.bits
        blocks = torch.empty_like(q)
        self._call("in_blocks", quantized.bits, q, blocks, outputs, inputs)
        return blocks, scale.unflatten(0, (-1, OUTPUTS)).transpose(1, 2).contiguous()

    def quantized_product(self, x: Tensor, q: Tensor, scale: Tensor) -> Tensor:
        """Rows x (R, K) times weights in blocks, int8 or int4: (R, N), both in bfloat16."""
        rows, inputs = x.shape
        bits = 8 if q.dtype == torch.int8 else 4
        out = x.new_empty(rows, len(q))
        room, worth = torch.empty(x.shape, dtype=torch.int16), torch.empty(rows)
        given = (bits, q, scale, x, out, room, worth, rows, len(q), inputs)
        self._call("quantized_product", *given, inputs // scale.shape[1])
        return out

    def bfloat16_product(self, x: Tensor, address: int, outputs: int) -> Tensor:
        """A row x (K) times the weights at `address`, (N/64, K/2, 64, 2): (N), all in bfloat16."""
        out = x.new_empty(outputs)
        self._call("bfloat16_product", ctypes.c_void_p(address), x, out, outputs, len(x))
        return out

    def _call(self, name: str, *given: Tensor | int | ctypes.c_void_p) -> None:
        """Call a function with addresses of tensors and numbers, and the number of threads."""
        function = getattr(self.library, name)
        function.restype = None
        function(*map(_argument, given), _argument(torch.get_num_threads()))


class CompiledLinear(QuantizedLinear):
    """int8 or int4 weights in blocks of 64 outputs, multiplied with x in whole numbers of 16 bits.

    That loses less of x than bfloat16 has lost before.
    """

    def __init__(self, kernels: Kernels, inputs: int, outputs: int, bits: int) -> None:
        super().__init__(inputs, outputs, bits)
        self.kernels = kernels

    @staticmethod
    def fits(inputs: int, outputs: int) -> bool:
        """Whether the kernels take weights of that shape."""
        return outputs % OUTPUTS == 0 and inputs % 32 == 0

    def take(self, quantized: Quantized, device: torch.device) -> None:
        self.q, self.scale = self.kernels.in_blocks(quantized)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.inputs).contiguous()
        out = self.kernels.quantized_product(rows, self.q, self.scale)
        return out.view(*x.shape[:-1], self.outputs)


class CompiledPackedLinear(PackedLinear):
    """The layout of oneDNN, read by a kernel of our own where there is one row.

    The layout, (N/64, K/2, 64, 2), is no promise of oneDNN's: `fill` looks at what it has made, and
    where it is another one, nothing is different from PackedLinear.
    """

    def __init__(self, kernels: Kernels, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.kernels = kernels
        self.address: int | None = None

    def fill(self, weight: Tensor) -> None:
        super().fill(weight)
        self.address = _address_of_pairs(self.weight, weight)

    def forward(self, x: Tensor) -> Tensor:
        if self.address is None or x.numel() != self.inputs:
            return super().forward(x)
        out = self.kernels.bfloat16_product(x.reshape(-1).contiguous(), self.address, self.outputs)
        return out.view(*x.shape[:-1], self.outputs)


@cache
def compile_kernels() -> Kernels:
    """The kernels, compiled once in a process. Raises NotCompiledError, also if they are wrong."""
    made = Kernels(compiled(SOURCE))
    if not multiply_rightly(made):
        raise NotCompiledError("what the compiler made multiplies wrongly")
    return made


def multiply_rightly(made: Kernels) -> bool:
    """Whether the products of quantised weights are those of the numbers they stand for."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2 * OUTPUTS, 256, generator=generator)
    x = torch.randn(7, 256, generator=generator).to(torch.bfloat16)
    for bits in (8, 4):
        quantized = quantize(weight, bits)
        exact = x.double() @ quantized.dequantized(torch.float64).T
        out = made.quantized_product(x, *made.in_blocks(quantized))
        if not (out - exact).abs().max() < exact.abs().max() / 2**8:
            return False
    return True


def _address_of_pairs(packed: Tensor, weight: Tensor) -> int | None:
    """Where `packed` has `weight` (N, K) as (N/64, K/2, 64, 2); None if it has it otherwise.

    The first block and the last are looked at.
    """
    outputs, inputs = weight.shape
    operators = torch.ops.mkldnn
    if not (hasattr(operators, "data_ptr") and hasattr(operators, "_nbytes")):
        return None  # an older PyTorch
    if outputs % OUTPUTS or inputs % 2 or operators._nbytes(packed) != weight.nbytes:
        return None
    address: int = operators.data_ptr(packed)
    size = OUTPUTS * inputs  # of a block
    for block in (0, outputs // OUTPUTS - 1):
        memory = (ctypes.c_int16 * size).from_address(address + block * size * 2)
        rows = weight[block * OUTPUTS :][:OUTPUTS].contiguous().view(torch.int16)
        pairs = rows.view(OUTPUTS, -1, 2).transpose(0, 1).flatten()
        if not torch.equal(torch.frombuffer(memory, dtype=torch.int16), pairs):
            return None
    return address


def _argument(value: Tensor | int | ctypes.c_void_p) -> ctypes.c_void_p | ctypes.c_long:
    """A tensor's address, or a whole number as C has it."""
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_long(value) if isinstance(value, int) else value
