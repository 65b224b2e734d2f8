"""Linear layers whose weights are 8 or 4 bits wide: the kind that is right on every machine.

The kinds with kernels are in `int8.py` and `int4.py` (PyTorch's), and in `compiled.py` (our own).
With few rows the weights are read in their small form, which is what makes them fast. With many
rows (an image) arithmetic is the limit: PyTorch's kernels want another path for them.

Axes: R rows (tokens), N outputs, K inputs, G groups of inputs that share a scale.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from vlmchat.model.linear import FastLinear
from vlmchat.quantize import Quantized, quantize

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
