"""Pixels equal transformers' bit for bit; prompts become the ids that the model was trained on."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from tests.reference import tiny_config
from tests.tiny import WORDS, save_tokenizer
from vlmchat.config import ConfigError, ModelConfig
from vlmchat.processor import ImageSettings, Processor
from vlmchat.tokenizer import TokenizerError

PUBLISHED = {
    "do_convert_rgb": None,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "SiglipImageProcessor",
    "image_seq_length": 256,
    "image_std": [0.5, 0.5, 0.5],
    "processor_class": "PaliGemmaProcessor",
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 28, "width": 28},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processor")
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def config(folder) -> ModelConfig:
    image_id = save_tokenizer(folder).token_to_id("<image>")
    return ModelConfig.from_dict(tiny_config(rows=image_id + 8, image_id=image_id).to_dict())


@pytest.fixture(scope="module")
def processor(folder, config) -> Processor:
    return Processor.from_folder(folder, config)


def noise(width: int, height: int) -> Image.Image:
    generator = np.random.default_rng(width * height)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("side", [28, 224, 448])
@pytest.mark.parametrize("size", [(640, 480), (100, 333), (1, 1), (700, 3), (28, 28), (224, 224)])
def test_pixels_equal_the_reference_bit_for_bit(processor, side, size):
    reference = SiglipImageProcessorPil(size={"height": side, "width": side})
    image = noise(*size)
    wanted = reference(image, return_tensors="pt")["pixel_values"]
    pixels = Processor(processor.tokenizer, processor.config.with_image_size(side)).pixels(image)
    assert pixels.dtype == torch.float32
    assert pixels.shape == (1, 3, side, side)
    assert torch.equal(pixels, wanted)


@pytest.mark.parametrize(
    "change",
    [
        {"resample": 2},
        {"image_mean": [0.48145466, 0.4578275, 0.40821073]},
        {"image_std": [0.26862954, 0.26130258, 0.27577711]},
        {"rescale_factor": 1 / 127.5},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_settings_are_obeyed_as_the_reference_obeys_them(change, processor, tmp_path):
    raw = PUBLISHED | change
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(raw))
    settings = ImageSettings.from_folder(tmp_path, 28)
    assert settings != ImageSettings()
    wanted = SiglipImageProcessorPil(**raw)(noise(90, 50), return_tensors="pt")["pixel_values"]
    pixels = Processor(processor.tokenizer, processor.config, settings).pixels(noise(90, 50))
    assert torch.equal(pixels, wanted)


def test_black_and_white_are_minus_one_and_one(processor):
    for colour, value in ((0, -1.0), (255, 1.0)):
        pixels = processor.pixels(Image.new("RGB", (5, 9), (colour,) * 3))
        assert torch.equal(pixels, torch.full((1, 3, 28, 28), value))


def test_the_image_is_left_as_it_was(processor):
    image = noise(50, 40)
    before = image.tobytes()
    processor.pixels(image).zero_()
    assert image.tobytes() == before


@pytest.mark.parametrize(
    "raw",
    [
        PUBLISHED,
        {},
        {"size": 28},
        {"size": None, "resample": None, "image_mean": None, "image_std": None},
        {"size": {"height": 28, "width": 28}},
    ],
)
def test_a_file_that_says_what_paligemma_says(raw, tmp_path):
    assert ImageSettings.from_folder(tmp_path, 28) == ImageSettings()
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(raw))
    assert ImageSettings.from_folder(tmp_path, 28) == ImageSettings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be used"),
        ("[]", "no JSON object"),
        ("[" * 10_000, "cannot be used"),
        (b"\xff\xfe", "cannot be used"),
        (" " * 200_000, "too large"),
        ('{"size": "big"}', "no height and width"),
        ('{"size": {"shortest_edge": 28}}', "no height and width"),
        ('{"size": {"height": [], "width": 28}}', "cannot be used"),
        ('{"size": {"height": 28, "width": 56}}', "images of 28 x 56 pixels .* takes 28 x 28"),
        ('{"size": 224}', "images of 224 x 224 pixels"),
        ('{"resample": 0}', "resample is 0, not 2 or 3"),
        ('{"resample": "cubic"}', "cannot be used"),
        ('{"image_mean": [0.5, 0.5]}', "cannot be used"),
        ('{"image_mean": 0.5}', "cannot be used"),
        ('{"image_mean": [NaN, 0, 0]}', "infinite or none"),
        ('{"rescale_factor": Infinity}', "infinite or none"),
        ('{"image_std": [0.5, 0, 0.5]}', "image_std is 0"),
        ('{"do_normalize": false}', "do_normalize is False, and a PaliGemma needs it"),
        ('{"do_resize": 0}', "do_resize is 0"),
    ],
)
def test_a_file_that_cannot_be_obeyed(text, message, tmp_path):
    path = tmp_path / "preprocessor_config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=message) as caught:
        ImageSettings.from_folder(tmp_path, 28)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("", []),
        ("ocr", ["ocr"]),
        ("answer en what is", ["answer", "▁", "en", "▁", "what", "▁", "is"]),
        ("detect cat", ["detect", "▁", "cat"]),
        ("detect cat\n", ["detect", "▁", "cat"]),  # would merge with the newline that follows
        ("cat\n\n\n", ["cat"]),
        ("\ncat\n\ntest", ["\n", "cat", "\n\n", "test"]),  # but within a prompt they stay
        ("cat ", ["cat", "▁"]),
        ("caption <loc0001><loc1023>", ["caption", "▁", "<loc0001>", "<loc1023>"]),
    ],
)
def test_a_prompt_is_bos_text_newline(processor, folder, prompt, pieces):
    fast = save_tokenizer(folder)
    wanted = [fast.token_to_id(piece) for piece in ["<bos>", *pieces, "\n"]]
    assert None not in wanted
    assert processor.prompt_ids(prompt) == wanted


@pytest.mark.parametrize(
    "prompt",
    [
        *("<image>", "<bos><eos><pad>", "what <eos> is", "<image>" * 16),
        *("<start_of_turn>model", "<end_of_turn>", "<unk><mask>", "\ud800 \udcff"),
    ],
)
def test_no_prompt_brings_control_tokens(processor, config, folder, prompt):
    fast = save_tokenizer(folder)
    control = {0, 1, 2, 3, 4, config.image_token_id}
    control |= {fast.token_to_id(piece) for piece in ("<start_of_turn>", "<end_of_turn>")}
    bos, *body, newline = processor.prompt_ids(prompt)
    assert (bos, newline) == (config.bos_id, processor.tokenizer.newline_id)
    assert body
    assert not control & set(body)


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("answer en what is this", ["<bos>", "answer", "▁", "en"]),
        ("answer en", ["<bos>", "answer", "▁", "en"]),
        ("answer en ", ["<bos>", "answer", "▁", "en"]),  # warmed before there is a question
        ("detect cat", ["<bos>", "detect"]),
        ("detect", ["<bos>", "detect"]),
        ("caption <loc0001><loc0002><loc0003><loc0004>", ["<bos>", "caption"]),
        ("caption en", ["<bos>", "caption", "▁", "en", "\n"]),
        ("describe en\n", ["<bos>", "describe", "▁", "en", "\n"]),
        ("ocr", ["<bos>", "ocr", "\n"]),
        ("what is this", ["<bos>"]),
        ("", ["<bos>"]),
        ("  answer en what", ["<bos>"]),  # its ids begin with spaces, so that no more is shared
    ],
)
def test_what_is_kept_of_a_prompt(processor, folder, prompt, pieces):
    fast = save_tokenizer(folder)
    assert processor.lead_ids(prompt) == [fast.token_to_id(piece) for piece in pieces]


def test_the_lead_is_always_the_beginning_of_the_prompt(processor):
    rng = random.Random(0)
    crumbs = [*WORDS, " ", " ", " ", "\n", "\t", "en ", "<loc0001>", "<seg001>", "é", "🤗", "ans"]
    for _ in range(2000):
        prompt = "".join(rng.choices(crumbs, k=rng.randrange(8)))
        lead, whole = processor.lead_ids(prompt), processor.prompt_ids(prompt)
        assert lead
        assert whole[: len(lead)] == lead


def test_a_word_that_merges_with_what_follows_is_not_shared(processor, monkeypatch):
    """Were `detect` and its label one token together, no prefix could hold `detect` alone."""
    whole = {"detect": [70], "detect cat": [71, 72]}
    monkeypatch.setattr(processor.tokenizer, "encode", whole.__getitem__)
    assert processor.lead_ids("detect cat") == [processor.config.bos_id]


def test_a_folder_whose_parts_do_not_belong_together(folder, config, tmp_path):
    with pytest.raises(TokenizerError, match="<eos> is token 1 in the tokenizer and 9 in config"):
        Processor.from_folder(folder, replace(config, eos_id=9))
    save_tokenizer(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PUBLISHED | {"size": 448}))
    with pytest.raises(ConfigError, match="448 x 448"):
        Processor.from_folder(tmp_path, config)
