"""What an answer costs at least: bytes to read for each token, operations until the first one."""

from dataclasses import dataclass

import torch

from vlmchat.config import ModelConfig
from vlmchat.model.paligemma import PaliGemma

BITS = {"none": 16, "int8": 8, "int4": 4}
PROMPT_TOKENS = 10


@dataclass(frozen=True)
class Limits:
    """`token_bytes`: the decoder's weights, read once for each token, as stored on disk.

    `first_flops`: products of the tower and the decoder over image and prompt; attention itself
    is left out, a hundredth of it at 224 pixels. `next_flops` leaves out the tower.
    """

    token_bytes: int
    first_flops: int
    next_flops: int


def limits(config: ModelConfig, dtype: torch.dtype, quantize: str = "none") -> Limits:
    """The limits of a model of this shape; quantised weights count with their bits alone."""
    with torch.device("meta"):
        model = PaliGemma(config)
    sizes = {name: p.numel() for name, p in model.named_parameters() if p.dim() > 1}
    decoder = sum(n for name, n in sizes.items() if name.startswith("text."))
    layers = sum(n for name, n in sizes.items() if name.startswith("text.layers."))
    tower = sum(sizes.values()) - decoder - config.vision.num_patches * config.vision.hidden_size
    tokens = config.image_tokens + PROMPT_TOKENS
    following = 2 * (layers * tokens + decoder - layers)
    bits = dtype.itemsize * 8 if quantize == "none" else BITS[quantize]
    return Limits(
        token_bytes=decoder * bits // 8,
        first_flops=following + 2 * tower * config.image_tokens,
        next_flops=following,
    )
