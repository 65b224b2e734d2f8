"""Linear layers on kernels of our own (`kernels.c`), which a C compiler makes for this processor.

With one row PyTorch's kernels read weights at a half to two thirds of the memory's speed, these at
all of it; and with many rows they multiply, whatever the weights are, as fast as oneDNN multiplies
bfloat16. So there is one way for all numbers of rows.

Axes: R rows (tokens), N outputs, K inputs, G groups of inputs that share a scale.
"""

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from vlmchat.compiler import NotCompiledError, compiled
from vlmchat.model.linear import FastLinear
from vlmchat.model.quantized import QuantizedLinear
from vlmchat.quantize import Quantized, quantize

SOURCE = Path(__file__).with_name("kernels.c")
OUTPUTS, PART = 64, 32  # as in `kernels.c`: outputs of a block, what divides the inputs
NOTHING = torch.zeros(0, 1)


class Kernels:
    """The functions of `kernels.c`, for tensors on the CPU."""

    def __init__(self, functions: ctypes.CDLL) -> None:
        self.functions = functions

    def in_blocks(self, weight: Tensor, bits: int) -> Tensor:
        """Weights (N, K), bfloat16 or as `Quantized` has them, in the order of `product`."""
        weight = weight.contiguous()
        blocks = torch.empty_like(weight)
        inputs = weight.nbytes * 8 // bits // len(weight)
        self._call("in_blocks", bits, weight, blocks, len(weight), inputs)
        return blocks

    def product(self, x: Tensor, weight: Tensor, bits: int, scale: Tensor | None = None) -> Tensor:
        """Rows x (…, K) in bfloat16 times weights in blocks: (…, N).

        Raises ValueError where x does not fit them.
        """
        inputs, outputs = x.shape[-1], len(weight)
        if x.dtype != torch.bfloat16 or bits * inputs * outputs != 8 * weight.nbytes:
            raise ValueError(f"{x.dtype} {tuple(x.shape)} does not fit weights for {outputs}")
        rows = x.reshape(-1, inputs).contiguous()
        out = x.new_empty(len(rows), outputs)
        room = torch.empty(rows.shape if bits < 16 else 0, dtype=torch.int16)
        worth = torch.empty(len(rows))
        scale = NOTHING if scale is None else scale
        sizes = (len(rows), outputs, inputs, inputs // scale.shape[1])
        self._call("product", bits, weight, scale, rows, out, room, worth, *sizes)
        return out.view(*x.shape[:-1], outputs)

    def _call(self, name: str, *given: Tensor | int) -> None:
        """Call a function with tensors and whole numbers, and behind them the number of threads."""
        function = getattr(self.functions, name)
        function.restype = None
        function(*map(_argument, given), _argument(torch.get_num_threads()))


class CompiledLinear(FastLinear):
    """Weights in bfloat16, in blocks of 64 outputs."""

    weight: Tensor

    def __init__(self, kernels: Kernels, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.kernels = kernels

    def fill(self, weight: Tensor) -> None:
        self.weight = self.kernels.in_blocks(weight, 16)

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes

    def forward(self, x: Tensor) -> Tensor:
        return self.kernels.product(x, self.weight, 16)


class CompiledQuantizedLinear(QuantizedLinear):
    """int8 or int4 weights in blocks of 64 outputs, multiplied with x in whole numbers of 16 bits.

    That loses less of x than bfloat16 has lost before.
    """

    def __init__(self, kernels: Kernels, inputs: int, outputs: int, bits: int) -> None:
        super().__init__(inputs, outputs, bits)
        self.kernels = kernels

    def take(self, quantized: Quantized, device: torch.device) -> None:
        self.q = self.kernels.in_blocks(quantized.q, self.bits)
        scale = quantized.scale.unflatten(0, (-1, OUTPUTS)).transpose(1, 2)
        self.scale = scale.clone(memory_format=torch.contiguous_format)  # and no view of a file

    def forward(self, x: Tensor) -> Tensor:
        return self.kernels.product(x, self.q, self.bits, self.scale)


def fits(inputs: int, outputs: int) -> bool:
    """Whether the kernels take weights of that shape."""
    return outputs % OUTPUTS == 0 and inputs % PART == 0


@cache
def compile_kernels() -> Kernels:
    """The kernels, compiled once in a process. Raises NotCompiledError, also if they are wrong."""
    made = Kernels(compiled(SOURCE))
    if not multiply_rightly(made):
        raise NotCompiledError("what the compiler made multiplies wrongly")
    return made


def multiply_rightly(made: Kernels) -> bool:
    """Whether products are those with the numbers that the weights stand for."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2 * OUTPUTS, 256, generator=generator).to(torch.bfloat16)
    x = torch.randn(7, 256, generator=generator).to(torch.bfloat16)
    for bits in (16, 8, 4):
        layer: FastLinear = CompiledLinear(made, 256, len(weight))
        numbers = weight.double()
        if bits < 16:
            layer = CompiledQuantizedLinear(made, 256, len(weight), bits)
            numbers = quantize(weight, bits).dequantized(torch.float64)
        layer.fill(weight)
        exact = x.double() @ numbers.T
        if not (layer(x) - exact).abs().max() < exact.abs().max() / 2**8:
            return False
    return True


def _argument(value: Tensor | int) -> ctypes.c_void_p | ctypes.c_long:
    """A tensor's address, or a whole number as C has it."""
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_long(value)
