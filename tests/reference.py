"""Tiny random PaliGemma checkpoints, written by transformers, and transformers' own answers."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

from vlmchat.config import ModelConfig
from vlmchat.model.paligemma import PaliGemma
from vlmchat.weights import load_model, open_checkpoint

IMAGE_ID = 300


def tiny_config(
    *,
    heads: int = 4,
    kv_heads: int = 1,
    head_dim: int = 16,
    image_size: int = 28,
    rows: int = 320,
    image_id: int = IMAGE_ID,
) -> PaliGemmaConfig:
    """A PaliGemma of a few thousand parameters; the published layout in everything but size."""
    return PaliGemmaConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "patch_size": 14,
            "image_size": image_size,
            "vision_use_head": False,
            "projection_dim": 32,
        },
        text_config={
            "model_type": "gemma",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim,
            "vocab_size": rows,
        },
        image_token_index=image_id,
        projection_dim=32,
        hidden_size=32,
    )


def reference_model(config: PaliGemmaConfig, *, seed: int = 0) -> PaliGemmaForConditionalGeneration:
    """transformers' model with eager attention and weights wide enough for varied answers.

    Norms and biases, which start at zero, are drawn too: a zero would hide a missing term. The
    tied table is drawn small beside the layers, or each token would only predict itself.
    """
    torch.manual_seed(seed)
    config._attn_implementation = "eager"
    model = PaliGemmaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.1 if "embed_tokens" in name else 0.3)
    return model


def our_model(
    folder: Path, dtype: torch.dtype | None = None, *, image_attends_to_text: bool = True
) -> PaliGemma:
    """The model of a checkpoint folder, loaded by our own code."""
    config = ModelConfig.from_folder(folder)
    config = replace(config, image_attends_to_text=image_attends_to_text)
    return load_model(open_checkpoint(folder, config), dtype)


def reference_logits(
    model: PaliGemmaForConditionalGeneration,
    ids: Tensor,
    pixels: Tensor,
    answer: Iterable[int] = (),
) -> Tensor:
    """Logits (T, V) of a prompt (1, T0) that is one bidirectional prefix and a causal answer."""
    suffix = torch.tensor([list(answer)], dtype=torch.long)
    row = torch.cat([ids, suffix], dim=1)
    kinds = torch.cat([torch.zeros_like(ids), torch.ones_like(suffix)], dim=1)
    with torch.inference_mode():
        out = model(
            input_ids=row,
            pixel_values=pixels,
            token_type_ids=kinds,
            attention_mask=torch.ones_like(row),
        )
    return out.logits[0].float()
