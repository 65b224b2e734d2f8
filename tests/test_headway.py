"""How far a model has come: told after each layer, in order, and nothing left behind."""

import pytest

from tests.test_engine import folder, make_engine, picture  # noqa: F401
from vlmchat.headway import watched


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


def test_an_interrupt_leaves_no_hooks(engine):
    with pytest.raises(KeyboardInterrupt), watched(engine.model, [].append):
        raise KeyboardInterrupt
    assert hooks(engine.model) == []
