"""How large the demo model and its toy sister are, as a published `config.json` would say it."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Size:
    """Numbers of one model. The decoder has one key-value head, as PaliGemma 3B."""

    image: int  # pixels a side
    patch: int  # pixels a side
    width: int  # of tower and decoder
    vision_layers: int
    text_layers: int
    heads: int
    vision_mlp: int  # width inside
    text_mlp: int

    def config(self, rows: int, image_token_id: int) -> dict[str, Any]:
        """The parsed `config.json` of a model with `rows` token rows."""
        patches = (self.image // self.patch) ** 2
        return {
            "architectures": ["PaliGemmaForConditionalGeneration"],
            "bos_token_id": 2,
            "eos_token_id": 1,
            "pad_token_id": 0,
            "hidden_size": self.width,
            "ignore_index": -100,
            "image_attends_to_text": False,
            "image_token_index": image_token_id,
            "model_type": "paligemma",
            "projection_dim": self.width,
            "torch_dtype": "bfloat16",
            "vocab_size": rows,
            "text_config": {
                "head_dim": self.width // self.heads,
                "hidden_size": self.width,
                "intermediate_size": self.text_mlp,
                "max_position_embeddings": 1024,
                "model_type": "gemma",
                "num_attention_heads": self.heads,
                "num_hidden_layers": self.text_layers,
                "num_image_tokens": patches,
                "num_key_value_heads": 1,
                "vocab_size": rows,
            },
            "vision_config": {
                "hidden_size": self.width,
                "image_size": self.image,
                "intermediate_size": self.vision_mlp,
                "model_type": "siglip_vision_model",
                "num_attention_heads": self.heads,
                "num_hidden_layers": self.vision_layers,
                "patch_size": self.patch,
                "projection_dim": self.width,
                "vision_use_head": False,
            },
        }


DEMO = Size(
    image=192,
    patch=12,
    width=256,
    vision_layers=6,
    text_layers=5,
    heads=4,
    vision_mlp=768,
    text_mlp=608,
)
TOY = Size(
    image=64,
    patch=16,
    width=48,
    vision_layers=2,
    text_layers=2,
    heads=4,
    vision_mlp=192,
    text_mlp=128,
)
