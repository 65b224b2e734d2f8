"""The one place that replaces layers: the decoder's linear layers by faster ones, while it loads.

The model's text knows nothing of this. `place` puts empty fast layers into a model that is still on
the meta device, `fill` gives them their weights one at a time: beside what is packed already, no
more than one layer is ever in memory twice. `settle` is for what has to know its weights first.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from vlmchat.model.compiled import CompiledLinear, CompiledQuantizedLinear, Kernels, fits
from vlmchat.model.gemma import RMSNorm, SideBySide
from vlmchat.model.int4 import TinygemmLinear, layout_is_known
from vlmchat.model.int8 import FbgemmLinear, OneDnnLinear, multiplies_rightly
from vlmchat.model.linear import FastLinear, FastTiedEmbedding, Joined, PackedLinear, packs
from vlmchat.model.norm import FastRMSNorm
from vlmchat.model.paligemma import PaliGemma
from vlmchat.model.quantized import QuantizedLinear
from vlmchat.quantize import GROUPS, Quantized, group_size
from vlmchat.quantize import quantize as quantized
from vlmchat.weight_cache import WeightCache

Quantize = Literal["none", "int8", "int4"]
BITS = {"none": 0, "int8": 8, "int4": 4}
# The head decides between all tokens, and what int4 loses there is lost for good.
HEAD_BITS = {"none": 0, "int8": 8, "int4": 8}


@dataclass(frozen=True)
class Placed:
    """A fast layer, and the names of the weights that it takes, one below the other."""

    names: tuple[str, ...]
    layer: FastLinear

    @property
    def stacked(self) -> bool:
        """Whether it takes more than one weight."""
        return len(self.names) > 1


def takes_kernels(device: torch.device, dtype: torch.dtype, quantize: Quantize) -> bool:
    """Whether `place` has a use for kernels of our own."""
    on_bfloat16 = device.type == "cpu" and dtype == torch.bfloat16
    return on_bfloat16 and (quantize != "none" or packs(device, dtype))


def place(
    model: PaliGemma,
    device: torch.device,
    dtype: torch.dtype,
    quantize: Quantize = "none",
    kernels: Kernels | None = None,
) -> list[Placed]:
    """Replace the decoder's linear layers and head, those that lie side by side by one.

    The head's name is that of the table, which stays where it is. `kernels` are used where the
    shapes allow it. Empty where nothing is gained.
    """

    def layer(inputs: int, outputs: int, bits: int, few_rows: bool = False) -> FastLinear:
        if kernels is not None and fits(inputs, outputs):
            if bits:
                return CompiledQuantizedLinear(kernels, inputs, outputs, bits)
            return CompiledLinear(kernels, inputs, outputs)
        if bits:
            return quantized_linear(inputs, outputs, bits, device, dtype, few_rows)
        return PackedLinear(inputs, outputs)

    if quantize == "none" and not packs(device, dtype):
        return []
    table = model.text.embed_tokens
    head = layer(table.embedding_dim, table.num_embeddings, HEAD_BITS[quantize], few_rows=True)
    placed = [Placed(("text.embed_tokens.weight",), head)]  # the largest first, while there is room
    for path, parent in list(model.text.named_modules(prefix="text")):
        for attribute, old in list(_replaceable(parent)):
            widths = [linear.out_features for linear in old.values()]
            inputs = next(iter(old.values())).in_features
            new = layer(inputs, sum(widths), BITS[quantize])
            placed.append(Placed(tuple(f"{path}.{name}.weight" for name in old), new))
            for name in old:
                delattr(parent, name)
            setattr(parent, attribute, new if len(old) == 1 else Joined(new, widths))
    with torch.device("meta"):
        rows = FastTiedEmbedding(table.num_embeddings, table.embedding_dim, head, dtype)
    model.text.embed_tokens = rows
    return placed


def quantized_linear(
    inputs: int,
    outputs: int,
    bits: int,
    device: torch.device,
    dtype: torch.dtype,
    few_rows: bool = False,
) -> QuantizedLinear:
    """The fastest kind of layer that this machine runs rightly for that shape.

    `few_rows` says that no image is ever read by it. Two int4 numbers make a byte, so an odd number
    of inputs is kept in int8.
    """
    bits = 8 if inputs % 2 else bits
    if device.type == "cpu" and bits == 8:
        # where outputs are many, what one kernel loses with an image is more than it gains after
        wide = outputs > 4 * inputs and not few_rows
        for kind in (OneDnnLinear, FbgemmLinear) if wide else (FbgemmLinear, OneDnnLinear):
            if multiplies_rightly(kind):
                return kind(inputs, outputs, bits)
    fits = outputs % 64 == 0 and group_size(inputs) in GROUPS and dtype == torch.bfloat16
    if device.type == "cpu" and bits == 4 and fits and layout_is_known():
        return TinygemmLinear(inputs, outputs, bits)
    return QuantizedLinear(inputs, outputs, bits)


def fill(
    placed: Placed,
    read: Callable[[], Tensor],
    device: torch.device,
    dtype: torch.dtype,
    cache: WeightCache | None = None,
) -> None:
    """Give a placed layer its weights: `read` them, unless they are quantised and in the cache."""
    layer = placed.layer
    if not isinstance(layer, QuantizedLinear):
        layer.fill(read().to(device, dtype))
        return

    def make() -> Quantized:
        return quantized(read().to(device), layer.bits)

    name, shape = "+".join(placed.names), (layer.outputs, layer.inputs)
    layer.take(cache.get(name, shape, layer.bits, make) if cache else make(), device)


def settle(model: PaliGemma) -> None:
    """Replace what has its weights now: norms, and on a GPU the layers that lie side by side.

    Nothing here holds on to what is replaced, so that one parent's weights at most exist twice.
    """
    changing = (RMSNorm, SideBySide)
    parents = [
        each
        for each in model.text.modules()
        if any(isinstance(child, changing) for child in each.children())
    ]
    for parent in parents:
        for name, child in list(parent.named_children()):
            if isinstance(child, RMSNorm):
                setattr(parent, name, FastRMSNorm(child))
        if joins(model.device, model.dtype):
            _join(parent)


def joins(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether layers side by side become one: not in float32, the arithmetic to compare with."""
    return device.type == "cuda" and dtype != torch.float32


def _join(parent: nn.Module) -> None:
    """Make those of the parent's layers one that lie side by side: one kernel for two or three."""
    for attribute, old in list(_replaceable(parent)):
        if len(old) > 1:
            stacked = torch.cat([layer.weight for layer in old.values()])
            with torch.device("meta"):
                one = nn.Linear(stacked.shape[1], len(stacked), bias=False)
            one.weight = nn.Parameter(stacked, requires_grad=False)
            for name in old:
                delattr(parent, name)
            setattr(parent, attribute, Joined(one, [layer.out_features for layer in old.values()]))


def quantization(model: PaliGemma) -> Quantize:
    """How the decoder's layers are quantised."""
    bits = {layer.bits for layer in _fast_layers(model) if isinstance(layer, QuantizedLinear)}
    return "int4" if 4 in bits else "int8" if 8 in bits else "none"


def _replaceable(parent: nn.Module) -> Iterator[tuple[str, dict[str, nn.Linear]]]:
    """What one layer can replace: the attribute that it takes over, the linear layers by name."""
    names = {child: name for name, child in parent.named_children() if isinstance(child, nn.Linear)}
    for attribute, child in parent.named_children():
        if isinstance(child, SideBySide):
            yield attribute, {names.pop(linear): linear for linear in child.layers}
    for linear, name in names.items():
        yield name, {name: linear}


def parameter_count(model: PaliGemma) -> int:
    """How many numbers the model has learnt, in layers of whatever kind; a tied head is none."""
    layers = [layer for layer in _fast_layers(model) if layer is not _fast_head(model)]
    return sum(p.numel() for p in model.parameters()) + sum(
        layer.inputs * layer.outputs for layer in layers
    )


def weight_bytes(model: PaliGemma) -> int:
    """Bytes that are read for those numbers; beside a fast head the table is only looked up in."""
    looked_up = model.text.embed_tokens.weight.nbytes if _fast_head(model) else 0
    layers = sum(layer.nbytes for layer in _fast_layers(model))
    return sum(p.nbytes for p in model.parameters()) - looked_up + layers


def _fast_layers(model: PaliGemma) -> list[FastLinear]:
    return [module for module in model.modules() if isinstance(module, FastLinear)]


def _fast_head(model: PaliGemma) -> FastLinear | None:
    table = model.text.embed_tokens
    return table.head if isinstance(table, FastTiedEmbedding) else None
