"""What a checkpoint's `config.json` says, as frozen objects that hold every number the model needs.

Published configs leave many values out, because they were written as differences from the
defaults of the library that saved them. The defaults here are the ones that the *published
checkpoints* mean, for each `model_type`; a number that has no such meaning is required. Every
number has a range, so that a damaged or hostile file ends in one clear line and not in an attempt
to allocate a terabyte.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlmchat.errors import UserError

MAX_CONFIG_BYTES = 1_000_000
TANH_GELUS = ("gelu_pytorch_tanh", "gelu_tanh", "gelu_new", "gelu_fast")


class ConfigError(UserError):
    """A `config.json` that is missing, damaged, or describes a model that this code is not."""


@dataclass(frozen=True)
class VisionConfig:
    """The SigLIP tower. `image_size` and `patch_size` are in pixels."""

    image_size: int
    patch_size: int
    num_channels: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    layer_norm_eps: float

    @property
    def num_patches(self) -> int:
        """Patches of one image: the side of the grid, squared."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads


@dataclass(frozen=True)
class LayerConfig:
    """One decoder layer: what may differ from layer to layer lives here, not in another class."""

    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int  # given, not hidden_size / num_heads: Gemma's heads need not add up to the width
    rms_norm_eps: float
    rope_theta: float
    attention_scale: float  # what a query-key product is multiplied by


@dataclass(frozen=True)
class TextConfig:
    """The Gemma decoder. `vocab_size` is the number of rows of the embedding table."""

    vocab_size: int
    hidden_size: int
    max_positions: int
    rms_norm_eps: float
    layers: tuple[LayerConfig, ...]


@dataclass(frozen=True)
class ModelConfig:
    """A whole PaliGemma, but for its dtype, which the headers of its weights state.

    `image_attends_to_text` is PaliGemma's rule: image positions read the prompt, so their keys
    change with the question. Where it is False (our own key in `config.json`, used by the demo
    model) image positions read only the image.
    """

    vision: VisionConfig
    text: TextConfig
    image_token_id: int
    bos_id: int
    eos_id: int
    pad_id: int
    image_attends_to_text: bool

    @property
    def image_tokens(self) -> int:
        """Positions that one image takes in the decoder."""
        return self.vision.num_patches

    @classmethod
    def from_folder(cls, folder: Path) -> "ModelConfig":
        """Read `config.json` in `folder`; raise ConfigError when it is missing or damaged."""
        path = folder / "config.json"
        try:
            if not path.is_file():  # a pipe would be waited for
                raise FileNotFoundError
            if path.stat().st_size > MAX_CONFIG_BYTES:
                raise ConfigError(f"{path}: larger than 1 MB: this is no model configuration")
            raw = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(
                f"{folder}: no config.json: give the folder of a PaliGemma checkpoint"
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"{path}: cannot be read ({error}): download the file again"
            ) from error
        return cls.from_dict(raw)

    @classmethod
    def from_dict(cls, raw: object) -> "ModelConfig":
        """Build from the parsed JSON of a published PaliGemma `config.json`."""
        top = _Section("", raw)
        top.require_type("paligemma")
        vision = _vision(_Section("vision_config.", top.raw.get("vision_config")))
        text_section = _Section("text_config.", top.raw.get("text_config"))
        text = _text(
            text_section, rows=text_section.raw.get("vocab_size", top.raw.get("vocab_size"))
        )
        if top.integer("projection_dim", 1, 16384, default=text.hidden_size) != text.hidden_size:
            raise ConfigError(
                "config.json: projection_dim and text_config.hidden_size differ: "
                "the projector must end at the decoder's width"
            )
        # Re-saves by newer libraries use the second name of each pair.
        image_key = "image_token_index"
        if image_key not in top.raw and "image_token_id" in top.raw:
            image_key = "image_token_id"
        return cls(
            vision=vision,
            text=text,
            image_token_id=top.integer(image_key, 0, 1_000_000),
            bos_id=top.integer("bos_token_id", 0, 1_000_000, default=2),
            eos_id=top.integer("eos_token_id", 0, 1_000_000, default=1),
            pad_id=top.integer("pad_token_id", 0, 1_000_000, default=0),
            image_attends_to_text=top.boolean("image_attends_to_text", default=True),
        )

    def with_rows(self, rows: int) -> "ModelConfig":
        """The same model with `rows` rows in its embedding table."""
        return replace(self, text=replace(self.text, vocab_size=rows))

    def with_image_size(self, pixels: int) -> "ModelConfig":
        """The same model for square images of `pixels` a side."""
        return replace(self, vision=replace(self.vision, image_size=pixels))


class _Section:
    """One JSON object of the config and the prefix that names its keys in messages.

    A key that is null counts as left out, which is how newer libraries write some of them.
    """

    def __init__(self, prefix: str, raw: object) -> None:
        if not isinstance(raw, Mapping):
            where = prefix.rstrip(".") or "the file"
            raise ConfigError(f"config.json: {where} is not an object: use a PaliGemma config.json")
        self.prefix = prefix
        self.raw: Mapping[str, Any] = {k: v for k, v in raw.items() if v is not None}

    def fail(self, key: str, problem: str) -> ConfigError:
        return ConfigError(
            f"config.json: {self.prefix}{key} {problem}: compare the file with the published one"
        )

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        value = self.raw.get(key, default)
        if value is None:
            raise self.fail(key, "is missing")
        if type(value) is not int or not low <= value <= high:
            raise self.fail(key, f"is {_short(value)}, not a whole number from {low} to {high}")
        return value

    def number(self, key: str, low: float, high: float, default: float) -> float:
        value = self.raw.get(key, default)
        if type(value) not in (int, float) or not low <= value <= high:
            raise self.fail(key, f"is {_short(value)}, not a number from {low:g} to {high:g}")
        return float(value)

    def boolean(self, key: str, default: bool) -> bool:
        value = self.raw.get(key, default)
        if type(value) is not bool:
            raise self.fail(key, f"is {_short(value)}, not true or false")
        return value

    def require_type(self, *known: str) -> None:
        kind = self.raw.get("model_type")
        if kind not in known:
            raise ConfigError(
                f"config.json: {self.prefix}model_type is {_short(kind)}, and this program runs "
                f"{' or '.join(known)} only: use a PaliGemma (version 1) checkpoint"
            )

    def require_gelu(self, key: str, also: tuple[str, ...] = ()) -> None:
        value = self.raw.get(key)
        if value is not None and value not in TANH_GELUS + also:
            raise self.fail(key, f"is {_short(value)}, and only the tanh GELU is known here")


def _short(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else text[:37] + "..."


def _vision(section: _Section) -> VisionConfig:
    section.require_type("siglip_vision_model")
    section.require_gelu("hidden_act")
    config = VisionConfig(
        image_size=section.integer("image_size", 1, 1792, default=224),
        patch_size=section.integer("patch_size", 1, 256),
        num_channels=section.integer("num_channels", 3, 3, default=3),
        hidden_size=section.integer("hidden_size", 1, 16384),
        intermediate_size=section.integer("intermediate_size", 1, 131072),
        num_layers=section.integer("num_hidden_layers", 1, 128),
        num_heads=section.integer("num_attention_heads", 1, 256),
        layer_norm_eps=section.number("layer_norm_eps", 0.0, 1.0, default=1e-6),
    )
    if config.image_size % config.patch_size:
        raise section.fail("image_size", "is not a multiple of patch_size")
    if config.hidden_size % config.num_heads:
        raise section.fail("hidden_size", "is not a multiple of num_attention_heads")
    return config


def _text(section: _Section, rows: object) -> TextConfig:
    section.require_type("gemma")
    section.require_gelu("hidden_activation")
    section.require_gelu("hidden_act", also=("gelu",))  # old files say gelu and mean the tanh form
    if section.boolean("attention_bias", default=False):
        raise section.fail("attention_bias", "is true, and a Gemma has no such biases")
    if not section.boolean("tie_word_embeddings", default=True):
        raise section.fail("tie_word_embeddings", "is false, and a PaliGemma's head is tied")
    head_dim = section.integer("head_dim", 2, 1024, default=256)
    if head_dim % 2:
        raise section.fail("head_dim", "is odd, and rotary embeddings turn pairs")
    layer = LayerConfig(
        hidden_size=section.integer("hidden_size", 1, 16384),
        intermediate_size=section.integer("intermediate_size", 1, 131072),
        num_heads=section.integer("num_attention_heads", 1, 256),
        num_kv_heads=section.integer("num_key_value_heads", 1, 256),
        head_dim=head_dim,
        rms_norm_eps=section.number("rms_norm_eps", 0.0, 1.0, default=1e-6),
        rope_theta=_rope_theta(section),
        attention_scale=1 / math.sqrt(head_dim),
    )
    if layer.num_heads % layer.num_kv_heads:
        raise section.fail("num_attention_heads", "is not a multiple of num_key_value_heads")
    if not isinstance(rows, int) or isinstance(rows, bool) or not 1 <= rows <= 1_000_000:
        raise section.fail("vocab_size", f"is {_short(rows)}, not a whole number up to 1000000")
    return TextConfig(
        vocab_size=rows,
        hidden_size=layer.hidden_size,
        max_positions=section.integer("max_position_embeddings", 1, 1_000_000, default=8192),
        rms_norm_eps=layer.rms_norm_eps,
        layers=(layer,) * section.integer("num_hidden_layers", 1, 128),
    )


def _rope_theta(section: _Section) -> float:
    """The base of the rotary frequencies, plain or inside the newer `rope_parameters`."""
    scaling = section.raw.get("rope_scaling")
    nested = section.raw.get("rope_parameters")
    if nested is not None:
        section = _Section(section.prefix + "rope_parameters.", nested)
        scaling = None if section.raw.get("rope_type", "default") == "default" else nested
    if scaling is not None:
        raise section.fail("rope_scaling", f"is {_short(scaling)}, and a Gemma 1 has none")
    return section.number("rope_theta", 1.0, 1e9, default=10000.0)
