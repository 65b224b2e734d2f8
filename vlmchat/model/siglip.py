"""SigLIP's vision tower: an image becomes a row of patch features.

Axes: B batch, C channels, S image side in pixels, P patches, D width, N heads, H head width.
Source: Zhai et al. 2023 (arXiv 2303.15343); the ViT of Dosovitskiy et al. 2021 (arXiv 2010.11929)
with pre-norm blocks, learned positions, no class token and no pooling head.

Module names repeat those of the published checkpoints, so that a tensor's name tells its place.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from vlmchat.config import VisionConfig
from vlmchat.model.embedding import Embedding


class PatchEmbeddings(nn.Module):
    """Cut the image into patches, project each, add what its place is."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(
            config.num_channels,
            config.hidden_size,
            kernel_size=config.patch_size,
            stride=config.patch_size,
        )
        self.position_embedding = Embedding(config.num_patches, config.hidden_size)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embedding(pixels)  # (B, D, S/patch, S/patch)
        patches = patches.flatten(2).transpose(1, 2)  # (B, P, D), row by row
        return patches + self.position_embedding.weight


class Attention(nn.Module):
    """Every patch looks at every patch: plain multi-head attention with biases."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self._heads(proj(x)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        mixed = F.scaled_dot_product_attention(q, k, v)  # scale H ** -0.5; (B, N, P, H)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))  # (B, P, D)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, N, P, H)


class MLP(nn.Module):
    """Two linear layers around the tanh form of GELU."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class EncoderLayer(nn.Module):
    """Attention, then the MLP, each behind a norm and beside a residual path."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = Attention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class SiglipTower(nn.Module):
    """Pixels (B, C, S, S) in [-1, 1] -> patch features (B, P, D)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.embeddings = PatchEmbeddings(config)
        self.encoder = Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.post_layernorm(self.encoder(self.embeddings(pixels)))
