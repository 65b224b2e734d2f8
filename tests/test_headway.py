"""How far a model has come: told after each layer, in order, and nothing left behind."""

import pytest
import torch

from tests.test_engine import folder, make_engine, picture  # noqa: F401
from tests.test_paligemma import draw_pixels
from vlmchat.config import ModelConfig
from vlmchat.headway import watched
from vlmchat.weights import load_model, open_checkpoint


@pytest.fixture
def engine(folder):  # noqa: F811
    return make_engine(folder)


def hooks(model):
    return [module for module in model.modules() if module._forward_hooks]


def test_the_share_grows_with_each_layer_to_one(engine):
    told = []
    with engine.watch(told.append):
        engine.look(picture())
    assert len(told) == len(engine.model.vision.encoder.layers) + len(engine.model.text.layers)
    assert told == sorted(told)
    assert told[0] > 0
    assert told[-1] == 1
    assert hooks(engine.model) == []


def test_with_an_encoded_image_it_begins_where_the_tower_ends(engine):
    told = []
    with engine.watch(told.append):
        engine.look(picture(), mode="exact")
        tower = told[-1]
        engine.look(picture())
    behind = told[len(engine.model.vision.encoder.layers) :]
    assert len(behind) == len(engine.model.text.layers)
    assert all(share > tower for share in behind)


@pytest.mark.parametrize("quantize", ["none", "int8", "int4"])
def test_fast_layers_count_as_what_they_stand_for(folder, quantize):  # noqa: F811
    checkpoint = open_checkpoint(folder, ModelConfig.from_folder(folder))
    shares = []
    for model in (
        load_model(checkpoint, torch.bfloat16, fast=False),
        load_model(checkpoint, torch.bfloat16, quantize=quantize),
    ):
        told = []
        with watched(model, told.append), torch.inference_mode():
            features = model.encode_image(draw_pixels(model))
            model.text(features, torch.arange(features.shape[1]))
        shares.append(told)
    assert shares[0] == shares[1]


def test_an_interrupt_leaves_no_hooks(engine):
    with pytest.raises(KeyboardInterrupt), watched(engine.model, [].append):
        raise KeyboardInterrupt
    assert hooks(engine.model) == []
