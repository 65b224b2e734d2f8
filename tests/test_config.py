"""Published configs give their effective values; damaged ones give one line."""

import json
import os

import pytest

from tests.published import published
from vlmchat.config import ConfigError, LayerConfig, ModelConfig, VisionConfig


def test_the_minimal_published_config_gives_the_effective_values():
    config = ModelConfig.from_dict(published())
    assert config.vision == VisionConfig(
        image_size=224,
        patch_size=14,
        num_channels=3,
        hidden_size=1152,
        intermediate_size=4304,
        num_layers=27,
        num_heads=16,
        layer_norm_eps=1e-6,
    )
    assert config.vision.head_dim == 72
    layer = LayerConfig(
        hidden_size=2048,
        intermediate_size=16384,
        num_heads=8,
        num_kv_heads=1,
        head_dim=256,
        rms_norm_eps=1e-6,
        rope_theta=10000.0,
        attention_scale=256**-0.5,
    )
    assert config.text.layers == (layer,) * 18
    assert config.text.vocab_size == 257216
    assert config.text.max_positions == 8192
    assert config.text.rms_norm_eps == 1e-6
    assert (config.pad_id, config.eos_id, config.bos_id) == (0, 1, 2)
    assert config.image_token_id == 257152
    assert config.image_attends_to_text is True


@pytest.mark.parametrize(("size", "tokens"), [(224, 256), (448, 1024), (896, 4096)])
def test_image_tokens_follow_the_image_size(size, tokens):
    assert ModelConfig.from_dict(published(size)).image_tokens == tokens


def test_names_of_newer_saves_mean_the_same():
    raw = published()
    raw["image_token_id"] = raw.pop("image_token_index")
    raw["dtype"] = raw.pop("torch_dtype")
    raw["text_config"]["rope_parameters"] = {"rope_theta": 10000.0, "rope_type": "default"}
    raw["text_config"]["hidden_act"] = "gelu"
    raw["text_config"]["hidden_activation"] = None
    assert ModelConfig.from_dict(raw) == ModelConfig.from_dict(published())


def test_our_own_key_keeps_images_from_reading_text():
    raw = published() | {"image_attends_to_text": False}
    assert ModelConfig.from_dict(raw).image_attends_to_text is False


DAMAGE = [
    ((), "model_type", "llava", 'model_type is "llava"'),
    (("text_config",), "model_type", "gemma2", "PaliGemma (version 1)"),
    (("vision_config",), "model_type", "clip", "vision_config.model_type"),
    (("text_config",), "hidden_size", None, "text_config.hidden_size is missing"),
    (("text_config",), "hidden_size", 2048.0, "hidden_size is 2048.0, not a whole number"),
    (("text_config",), "num_hidden_layers", True, "num_hidden_layers is true"),
    (("text_config",), "num_hidden_layers", 10**9, "from 1 to 128"),
    (("text_config",), "num_key_value_heads", 3, "not a multiple"),
    (("text_config",), "head_dim", 5, "head_dim is odd"),
    (("text_config",), "rms_norm_eps", float("nan"), "rms_norm_eps"),
    (("text_config",), "vocab_size", -1, "vocab_size is -1"),
    (("text_config",), "attention_bias", True, "attention_bias"),
    (("text_config",), "tie_word_embeddings", False, "tied"),
    (("text_config",), "rope_scaling", {"factor": 8}, "rope_scaling"),
    (("text_config",), "hidden_activation", "silu", 'hidden_activation is "silu"'),
    (("vision_config",), "hidden_act", "gelu", 'hidden_act is "gelu"'),
    (("vision_config",), "patch_size", 15, "not a multiple of patch_size"),
    (("vision_config",), "image_size", 14000, "from 1 to 1792"),
    (("vision_config",), "num_attention_heads", 7, "not a multiple"),
    ((), "projection_dim", 1024, "projection_dim and text_config.hidden_size differ"),
    ((), "image_token_index", None, "image_token_index is missing"),
    ((), "image_attends_to_text", "no", "not true or false"),
    ((), "text_config", [], "text_config is not an object"),
]


@pytest.mark.parametrize(("path", "key", "value", "message"), DAMAGE, ids=lambda x: str(x)[:40])
def test_a_damaged_config_is_refused_in_one_line(path, key, value, message):
    raw = published()
    section = raw
    for name in path:
        section = section[name]
    section[key] = value
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_dict(raw)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).count(": ") >= 2  # where: what: what to do


def test_null_means_left_out():
    raw = published()
    raw["text_config"] |= {"head_dim": None, "rope_theta": None, "attention_bias": None}
    raw["vision_config"] |= {"image_size": None, "hidden_act": None}
    raw |= {"pad_token_id": None, "bos_token_id": None}
    assert ModelConfig.from_dict(raw) == ModelConfig.from_dict(published())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_the_place_of_the_config_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ConfigError, match=r"no config\.json"):
        ModelConfig.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no config.json"),
        ("{", "cannot be read"),
        ("[1]", "is not an object"),
        ("[" * 100_000, "cannot be read"),
        (" " * 1_000_001, "larger than 1 MB"),
    ],
    ids=["missing", "cut", "list", "deep", "large"],
)
def test_a_file_that_is_no_config_is_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_folder(tmp_path)


def test_a_folder_with_a_config_is_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(published(448)))
    assert ModelConfig.from_folder(tmp_path).vision.image_size == 448
