"""A model with fast layers is the same model."""

import pytest
import torch
from torch import nn

from tests.reference import reference_model, tiny_config
from tests.test_linear import packing
from vlmchat.config import ModelConfig
from vlmchat.model.linear import FastLinear
from vlmchat.packing import parameter_count, weight_bytes
from vlmchat.weights import load_model, open_checkpoint

IDS = torch.tensor([[300, 300, 300, 300, 2, 10, 20, 30]])
PIXELS = torch.linspace(-1, 1, 3 * 28 * 28).reshape(1, 3, 28, 28)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny checkpoint in bfloat16."""
    folder = tmp_path_factory.mktemp("tiny")
    reference_model(tiny_config()).to(torch.bfloat16).save_pretrained(folder)
    return open_checkpoint(folder, ModelConfig.from_folder(folder))


def agreement(one, other):
    """The cosine between two models' logits for the same input."""
    with torch.inference_mode():
        a, b = (model(IDS, PIXELS).float().flatten() for model in (one, other))
    return float(nn.functional.cosine_similarity(a, b, dim=0))


def kinds(model):
    return [type(m).__name__ for m in model.modules() if isinstance(m, (FastLinear, nn.Linear))]


@packing
def test_every_decoder_layer_and_the_head_are_replaced(checkpoint):
    model = load_model(checkpoint)
    layers = kinds(model.text)
    assert layers == ["PackedLinear"] * (7 * 3 + 1)
    assert set(kinds(model.vision)) == {"Linear"}
    assert set(kinds(load_model(checkpoint, fast=False))) == {"Linear"}


@packing
def test_packed_is_the_same_model(checkpoint):
    plain, packed = load_model(checkpoint, fast=False), load_model(checkpoint)
    assert agreement(plain, packed) > 0.999
    assert parameter_count(packed) == parameter_count(plain)
    assert weight_bytes(packed) == weight_bytes(plain) == checkpoint.nbytes


def test_float32_stays_as_it_is(checkpoint):
    assert set(kinds(load_model(checkpoint, torch.float32))) == {"Linear"}


def test_progress_ends_at_its_total(checkpoint):
    seen = []
    load_model(checkpoint, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert not seen or seen[-1][0] == seen[-1][1]
