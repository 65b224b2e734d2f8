"""int8 weights on kernels that multiply bytes.

Axes: R rows (tokens), N outputs, K inputs.
"""

import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor

from vlmchat.model.quantized import QuantizedLinear
from vlmchat.quantize import Quantized

ROWS_AT_ONCE = 96  # split into bytes and multiplied at once, small enough for a processor's caches
PACKED_AT_ONCE = 8192  # outputs; FBGEMM packs more of them several times as slowly
HALF = torch.tensor(0.5)
TINY = 2.0**-100


class ByteLinear(QuantizedLinear):
    """int8 weights times x in 16 bits as two rows of bytes, on instructions that multiply bytes.

    x is not quantised to 8 bits, as is usual with these instructions: it is split into a high and a
    low byte, which lose less than bfloat16 does. One token is then two rows, and the weights are
    read once for both.
    """

    @property
    def nbytes(self) -> int:
        return self.outputs * self.inputs + self.scale.nbytes

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.inputs)
        if len(rows) <= ROWS_AT_ONCE:
            out = self._some(rows).to(x.dtype)
        else:
            out = rows.new_empty(len(rows), self.outputs)
            for part, some in zip(out.split(ROWS_AT_ONCE), rows.split(ROWS_AT_ONCE), strict=True):
                part.copy_(self._some(some))
        return out.view(*x.shape[:-1], self.outputs)

    def _some(self, rows: Tensor) -> Tensor:
        """Rows (R, K) times the weights: (R, N), float32."""
        halves, largest = _bytes(rows)
        pairs = (product.chunk(2) for product in self._products(halves))
        parts = [torch.add(high, low, alpha=1 / 256) for high, low in pairs]
        return (torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]).mul_(largest)

    def _products(self, halves: Tensor) -> list[Tensor]:
        """Rows (R, K) of whole numbers from -128 to 127, in float32, times some weights: (R, n).

        One after another these are the products with all N, over 127.
        """
        raise NotImplementedError


class FbgemmLinear(ByteLinear):
    """The kernel of FBGEMM: the faster of the two to read weights, for a few rows.

    PyTorch means to give it up one day, and quantised tensors with it.
    """

    def take(self, quantized: Quantized, device: torch.device) -> None:
        self.scale = quantized.scale.flatten().double() / 127
        zeros = torch.zeros(self.outputs, dtype=torch.long)
        pieces = (part.split(PACKED_AT_ONCE) for part in (quantized.q, self.scale, zeros))
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            self.pieces = list(pool.map(_fbgemm_packed, *pieces))

    def _products(self, halves: Tensor) -> list[Tensor]:
        product = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
        return [product(halves, 1.0, 128, piece) for piece in self.pieces]


class OneDnnLinear(ByteLinear):
    """The kernel of oneDNN: the faster of the two to multiply, for many rows."""

    def take(self, quantized: Quantized, device: torch.device) -> None:
        self.q = torch.ops.onednn.qlinear_prepack(quantized.q, None)
        self.scale = quantized.scale.flatten() / 127
        self.zeros = torch.zeros(self.outputs, dtype=torch.int32)

    def _products(self, halves: Tensor) -> list[Tensor]:
        rows = halves.add_(128).to(torch.uint8)
        if len(rows) == 2:
            rows = rows.repeat(2, 1)  # weights are read faster for four rows than for two
        products: Tensor = torch.ops.onednn.qlinear_pointwise(
            rows,
            1.0,
            128,
            self.q,
            self.scale,
            self.zeros,
            None,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )
        return [products[: len(halves)]]


def _bytes(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (R, K) as high and low bytes -128 to 127 (2R, K), in float32; their largest (R, 1).

    A row is about largest / 127 * (high + low / 256).
    """
    rows = rows.float()
    largest = rows.abs().amax(1, keepdim=True).clamp_(min=TINY)  # a row of zeros
    whole = rows.mul(127 * 256 / largest).round_()
    halves = torch.empty(2, *rows.shape)
    high, low = halves
    torch.add(HALF, whole, alpha=1 / 256, out=high).floor_()
    torch.sub(whole, high, alpha=256, out=low)
    return halves.flatten(0, 1), largest


def _fbgemm_packed(q: Tensor, scale: Tensor, zeros: Tensor) -> object:
    """Some outputs (n, K) int8, their scales and zeros (n,), in FBGEMM's own layout."""
    weight = torch._make_per_channel_quantized_tensor(q, scale, zeros, 0)
    return torch.ops.quantized.linear_prepack(weight, None)


@cache
def multiplies_rightly(kind: type[ByteLinear]) -> bool:
    """Whether a kernel multiplies bytes here, exactly: without VNNI instructions sums may saturate.

    Only where there is AVX-512 does it also do so fast.
    """
    if "AVX512" not in torch.backends.cpu.get_cpu_capability() or sys.byteorder != "little":
        return False
    try:
        for inputs, outputs in ((256, 64), (24, 40)):
            layer = kind(inputs, outputs, bits=8)
            q = torch.full((outputs, inputs), 127, dtype=torch.int8)
            q[::2] = -127
            with warnings.catch_warnings():  # that FBGEMM will go one day, told once in a program
                warnings.simplefilter("ignore", UserWarning)
                layer.take(Quantized(q, torch.full((outputs, 1), 127.0)), torch.device("cpu"))
            halves = torch.full((6, inputs), 127.0)
            halves[1] = -128
            expected = halves @ q.float().T
            if not torch.equal(torch.cat(layer._products(halves), dim=1), expected):
                return False
    except (RuntimeError, AttributeError):  # this PyTorch has no such operator, or not for this
        return False
    return True
