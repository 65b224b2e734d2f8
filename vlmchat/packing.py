"""The one place that replaces layers: the decoder's linear layers by faster ones, while it loads.

The model's text knows nothing of this. `place` puts empty fast layers into a model that is still on
the meta device, `fill` gives them their weights one at a time: beside what is packed already, no
more than one layer is ever in memory twice.
"""

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from vlmchat.model.linear import FastLinear, FastTiedEmbedding, PackedLinear, packs
from vlmchat.model.paligemma import PaliGemma
from vlmchat.model.quantized import QuantizedLinear, quantized_linear
from vlmchat.quantize import Quantized
from vlmchat.quantize import quantize as quantized
from vlmchat.weight_cache import WeightCache

Quantize = Literal["none", "int8", "int4"]
BITS = {"none": 0, "int8": 8, "int4": 4}
# The head decides between all tokens, and what int4 loses there is lost for good.
HEAD_BITS = {"none": 0, "int8": 8, "int4": 8}


def place(
    model: PaliGemma, device: torch.device, dtype: torch.dtype, quantize: Quantize = "none"
) -> dict[str, FastLinear]:
    """Replace the decoder's linear layers and head; the new ones by the name of their weight.

    The head's name is that of the table, which stays where it is. Empty where nothing is gained.
    """

    def layer(inputs: int, outputs: int, bits: int) -> FastLinear:
        if bits:
            return quantized_linear(inputs, outputs, bits, device, dtype)
        return PackedLinear(inputs, outputs)

    if quantize == "none" and not packs(device, dtype):
        return {}
    table = model.text.embed_tokens
    head = layer(table.embedding_dim, table.num_embeddings, HEAD_BITS[quantize])
    placed = {"text.embed_tokens.weight": head}  # the largest first, while there is room
    for parent, name, path in list(_linear_layers(model)):
        old = getattr(parent, name)
        placed[f"{path}.weight"] = layer(old.in_features, old.out_features, BITS[quantize])
        setattr(parent, name, placed[f"{path}.weight"])
    with torch.device("meta"):
        rows = FastTiedEmbedding(table.num_embeddings, table.embedding_dim, head, dtype)
    model.text.embed_tokens = rows
    return placed


def fill(
    layer: FastLinear,
    name: str,
    read: Callable[[], Tensor],
    device: torch.device,
    dtype: torch.dtype,
    cache: WeightCache | None = None,
) -> None:
    """Give a placed layer its weights: `read` them, unless they are quantised and in the cache."""
    if not isinstance(layer, QuantizedLinear):
        layer.fill(read().to(device, dtype))
        return

    def make() -> Quantized:
        return quantized(read().to(device), layer.bits)

    shape = (layer.outputs, layer.inputs)
    layer.take(cache.get(name, shape, layer.bits, make) if cache else make(), device)


def quantization(model: PaliGemma) -> Quantize:
    """How the decoder's layers are quantised."""
    bits = {layer.bits for layer in _fast_layers(model) if isinstance(layer, QuantizedLinear)}
    return "int4" if 4 in bits else "int8" if 8 in bits else "none"


def _linear_layers(model: PaliGemma) -> Iterator[tuple[nn.Module, str, str]]:
    """Each linear layer of the decoder: the module that holds it, its name there, its full name."""
    for path, module in model.named_modules():
        if not path.startswith("text.layers."):
            continue
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                yield module, name, f"{path}.{name}"


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
