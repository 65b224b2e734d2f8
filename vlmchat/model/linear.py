"""Linear layers that read their weights faster than `nn.Linear`; `vlmchat.packing` places them.

Axes: R rows (tokens), N outputs, K inputs.

One token is one row, and then reading the weights takes all the time: their layout decides.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlmchat.model.gemma import TiedEmbedding

# oneDNN reads memory fastest at five rows: 30 GB/s, where one row, two or eight get 22 to 25.
BEST_ROWS = 5


class FastLinear(nn.Module):
    """x (…, K) -> (…, N) without a bias; what holds the weights is up to the kind.

    Made empty on the meta device like any layer, then given its weights (N, K) by `fill`.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.outputs = outputs

    def fill(self, weight: Tensor) -> None:
        """Take over what `weight` (N, K) says, in a layout of this kind's own."""
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        """Bytes that the weights take in memory."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """What `print` shows of the layer."""
        return f"inputs={self.inputs}, outputs={self.outputs}"


class PackedLinear(FastLinear):
    """Weights in the blocked layout of oneDNN, which it would otherwise make anew at each call."""

    weight: Tensor

    def fill(self, weight: Tensor) -> None:
        """Reorder `weight` once for all calls; the layout is the same for any number of rows."""
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)

    @property
    def nbytes(self) -> int:
        return self.outputs * self.inputs * self.weight.dtype.itemsize

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.inputs)
        padded = _padded(rows)
        out = torch.ops.mkldnn._linear_pointwise(padded, self.weight, None, "none", [], "")
        return out[: len(rows)].view(*x.shape[:-1], self.outputs)


class Joined(nn.Module):
    """The layers of a `SideBySide` as one layer, whose outputs are theirs one after another."""

    def __init__(self, layer: nn.Module, widths: Sequence[int]) -> None:
        super().__init__()
        self.layer = layer
        self.widths = list(widths)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Products (…, N), one of each, with x (…, K)."""
        parts: tuple[Tensor, ...] = self.layer(x).split(self.widths, dim=-1)
        return parts


class FastTiedEmbedding(TiedEmbedding):
    """The tied table with a head of its own: rows come from the table, scores from fast weights.

    The table stays a view of the file, in the file's dtype, of which only the rows that are looked
    up are ever read; they come out in `dtype`.
    """

    def __init__(self, rows: int, width: int, head: FastLinear, dtype: torch.dtype) -> None:
        super().__init__(rows, width)
        self.head = head
        self.dtype = dtype

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids (…) -> rows (…, K)."""
        return super().forward(ids).to(self.dtype)

    def scores(self, hidden: Tensor) -> Tensor:
        """Hidden states (…, K) -> scores (…, N) of all tokens."""
        return self.head(hidden)


def packs(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN can pack weights of `dtype` here, and gains by it.

    Only bfloat16 is packed: it gains most, and float32 stays the arithmetic to compare with.
    """
    if device.type != "cpu" or dtype != torch.bfloat16 or not torch.backends.mkldnn.is_available():
        return False
    names = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    if not all(hasattr(torch.ops.mkldnn, name) for name in names):
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _padded(rows: Tensor) -> Tensor:
    """At least BEST_ROWS rows, the added ones of zeros."""
    lacking = BEST_ROWS - len(rows)
    return F.pad(rows, (0, 0, 0, lacking)) if lacking > 0 else rows
