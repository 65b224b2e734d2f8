"""PaliGemma: the SigLIP tower, a linear projector, and the Gemma decoder behind one another.

Axes: B batch, P image tokens, T tokens, D decoder width, Dv tower width, V vocabulary rows.
Source: Beyer et al. 2024 (arXiv 2407.07726).
"""

import torch
from torch import Tensor, nn

from vlmchat.config import ModelConfig
from vlmchat.model.cache import KVCache
from vlmchat.model.gemma import GemmaDecoder
from vlmchat.model.siglip import SiglipTower


class Projector(nn.Module):
    """One linear layer from the tower's width to the decoder's."""

    def __init__(self, vision_width: int, text_width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(vision_width, text_width)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features)


class PaliGemma(nn.Module):
    """Pixels and token ids in, scores of the next token out."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = SiglipTower(config.vision)
        self.projector = Projector(config.vision.hidden_size, config.text.hidden_size)
        self.text = GemmaDecoder(config.text)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights and activations."""
        return self.projector.linear.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.text.embed_tokens.weight.device

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, S, S) -> image features (B, P, D), ready to stand among embeddings."""
        return self.projector(self.vision(pixels.to(self.device, self.dtype)))

    def embed(self, ids: Tensor, features: Tensor | None = None) -> Tensor:
        """Ids (B, T) -> embeddings (B, T, D); image positions take `features` (B, P, D) in order.

        Text rows are scaled by sqrt(D), image rows are not. The image token itself is never looked
        up: tables of 257152 rows have no row for it.
        """
        is_image = ids == self.config.image_token_id
        x = self.text.embed(ids.masked_fill(is_image, 0))
        if features is None:
            return x
        if int(is_image.sum()) != features.shape[0] * features.shape[1]:
            raise ValueError(
                f"{int(is_image.sum())} image tokens for {features.shape[0]} x {features.shape[1]} "
                "image features"
            )
        return x.masked_scatter(is_image.unsqueeze(-1), features.to(x.dtype))

    def forward(self, ids: Tensor, pixels: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) of a whole prompt as the reference computes it, without a cache."""
        features = None if pixels is None else self.encode_image(pixels)
        if features is not None:  # several images of one prompt follow one another
            features = features.reshape(ids.shape[0], -1, features.shape[-1])
        positions = torch.arange(ids.shape[1], device=ids.device)
        return self.text.logits(self.text(self.embed(ids, features), positions))

    def extend(self, x: Tensor, cache: KVCache, mask: Tensor | None = None) -> Tensor:
        """Put embeddings x (B, T, D) behind what `cache` holds; hidden state of the last (B, D).

        The rows of x read everything cached and one another, unless `mask` (T, cached + T) says
        otherwise: that is a prefix block, and with T = 1 a step of decoding.
        """
        positions = torch.arange(cache.length, cache.length + x.shape[1], device=x.device)
        last = None if x.shape[1] == 1 else [x.shape[1] - 1]
        return self.text(x, positions, mask, cache, last)[:, -1]
