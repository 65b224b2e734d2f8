"""A model with fast layers is the same model."""

import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.reference import reference_model, tiny_config
from tests.test_linear import packing
from tests.test_quantized import tinygemm, vnni
from vlmchat import packing as packing_module
from vlmchat.config import ModelConfig
from vlmchat.model import int4, int8
from vlmchat.model.cache import KVCache
from vlmchat.model.gemma import SideBySide
from vlmchat.model.linear import FastLinear
from vlmchat.model.masks import block_mask
from vlmchat.packing import parameter_count, quantization, weight_bytes
from vlmchat.weight_cache import WeightCache
from vlmchat.weights import load_model, open_checkpoint

IDS = torch.tensor([[300, 300, 300, 300, 2, 10, 20, 30]])
MAPS = Path("/proc/self/maps")
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


def neighbours(model):
    """The layers that lie side by side with another."""
    pairs = (each for each in model.text.modules() if isinstance(each, SideBySide))
    return [linear for pair in pairs for linear in pair.layers]


def kinds(model):
    return [type(m).__name__ for m in model.modules() if isinstance(m, (FastLinear, nn.Linear))]


@packing
def test_every_decoder_layer_and_the_head_are_replaced(checkpoint):
    model = load_model(checkpoint)
    layers = kinds(model.text)
    assert layers == ["PackedLinear"] * (4 * 3 + 1)
    assert set(kinds(model.vision)) == {"Linear"}
    assert set(kinds(load_model(checkpoint, fast=False))) == {"Linear"}


@packing
def test_layers_that_are_stacked_may_differ_in_dtype(checkpoint, tmp_path):
    tensors = load_file(checkpoint.entries["text.norm.weight"].file)
    name = next(name for name in tensors if name.endswith("layers.1.mlp.up_proj.weight"))
    save_file(tensors | {name: tensors[name].float()}, tmp_path / "model.safetensors")
    mixed = open_checkpoint(tmp_path, checkpoint.config)
    with torch.inference_mode():
        assert torch.equal(load_model(checkpoint)(IDS, PIXELS), load_model(mixed)(IDS, PIXELS))


@packing
def test_packed_is_the_same_model(checkpoint):
    plain, packed = load_model(checkpoint, fast=False), load_model(checkpoint)
    assert agreement(plain, packed) > 0.999
    assert parameter_count(packed) == parameter_count(plain)
    assert weight_bytes(packed) == weight_bytes(plain) == checkpoint.nbytes


@packing
def test_the_table_of_a_float32_file_is_not_copied_beside_its_packed_head(tmp_path):
    reference_model(tiny_config()).save_pretrained(tmp_path)
    wide = open_checkpoint(tmp_path, ModelConfig.from_folder(tmp_path))
    plain, packed = (load_model(wide, torch.bfloat16, fast=fast) for fast in (False, True))
    assert packed.text.embed_tokens.weight.dtype == torch.float32  # the file's, mapped
    assert packed.dtype == torch.bfloat16
    assert torch.equal(packed.text.embed(IDS), plain.text.embed(IDS))
    assert agreement(plain, packed) > 0.999


def test_float32_stays_as_it_is(checkpoint):
    assert set(kinds(load_model(checkpoint, torch.float32))) == {"Linear"}


def test_progress_ends_at_its_total(checkpoint):
    seen = []
    load_model(checkpoint, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert not seen or seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("quantize", "least"), [("int8", 0.999), ("int4", 0.9)])
def test_quantised_is_nearly_the_same_model(checkpoint, quantize, least, dtype):
    plain = load_model(checkpoint, dtype, fast=False)
    small = load_model(checkpoint, dtype, quantize=quantize)
    assert agreement(plain, small) > least
    assert quantization(small) == quantize
    assert parameter_count(small) == parameter_count(plain)
    assert weight_bytes(small) < weight_bytes(plain)
    assert not any(kind == "Linear" for kind in kinds(small.text))
    assert set(kinds(small.vision)) == {"Linear"}


@vnni
@tinygemm
def test_machines_are_looked_at_from_the_first_load_on(checkpoint):
    int8.multiplies_rightly.cache_clear()  # as in a program that has just started
    int4.layout_is_known.cache_clear()
    assert set(kinds(load_model(checkpoint, quantize="int8").text)) == {"FbgemmLinear"}
    assert int4.layout_is_known()


def test_joined_layers_are_the_same_model_and_never_there_twice(checkpoint, monkeypatch):
    """What is done on a GPU, here on the CPU."""
    plain, joined = (load_model(checkpoint, torch.float32, fast=False) for _ in range(2))
    old = [weakref.ref(linear) for linear in neighbours(joined)]
    assert len(old) == 3 * 5
    join, alive = packing_module._join, []

    def counted(parent):
        join(parent)
        alive.append(sum(each() is not None for each in old))

    monkeypatch.setattr(packing_module, "joins", lambda device, dtype: True)
    monkeypatch.setattr(packing_module, "_join", counted)
    packing_module.settle(joined)
    assert sorted(set(alive), reverse=True) == [15, 12, 10, 7, 5, 2, 0]
    assert kinds(joined.text) == ["Linear"] * 4 * 3
    assert parameter_count(joined) == parameter_count(plain)
    assert weight_bytes(joined) == weight_bytes(plain)
    with torch.inference_mode():
        assert torch.allclose(plain(IDS, PIXELS), joined(IDS, PIXELS), rtol=1e-5, atol=1e-5)


def test_nothing_quantised_is_none(checkpoint):
    assert quantization(load_model(checkpoint)) == "none"


def test_weights_from_the_cache_make_the_same_model(checkpoint, tmp_path, monkeypatch):
    made = load_model(checkpoint, quantize="int4", cache=WeightCache(tmp_path))
    assert len(list(tmp_path.iterdir())) == 4 * 3 + 1
    monkeypatch.setattr(packing_module, "quantized", None)  # would fail if it were called
    kept = load_model(checkpoint, quantize="int4", cache=WeightCache(tmp_path))
    with torch.inference_mode():
        assert torch.equal(made(IDS, PIXELS), kept(IDS, PIXELS))


@vnni
@pytest.mark.skipif(not MAPS.exists(), reason="needs Linux to tell what is mapped")
def test_no_layer_holds_on_to_the_file_that_its_weights_were_kept_in(checkpoint, tmp_path):
    load_model(checkpoint, quantize="int8", cache=WeightCache(tmp_path))
    model = load_model(checkpoint, quantize="int8", cache=WeightCache(tmp_path))
    assert quantization(model) == "int8"
    assert str(tmp_path) not in MAPS.read_text()


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_a_cache_of_keys_and_values_changes_no_answer(checkpoint, quantize):
    model = load_model(checkpoint, torch.float32, quantize=quantize)
    with torch.inference_mode():
        at_once = model.extend(model.embed(IDS), KVCache(model.config.text, 8), block_mask([], 8))
        cache = KVCache(model.config.text, 8)
        for token in IDS.split(1, dim=1):
            one_by_one = model.extend(model.embed(token), cache)
    assert torch.allclose(at_once, one_by_one, rtol=1e-3, atol=1e-3)
