"""Checkpoints load strictly: every name, count and shape, in every layout they come in."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.published import published
from tests.reference import our_model, reference_model, tiny_config
from vlmchat.config import ModelConfig
from vlmchat.model.paligemma import PaliGemma
from vlmchat.shards import INDEX_NAME, SINGLE_NAME, WeightsError
from vlmchat.weights import load_model, model_name, open_checkpoint, published_name

LAYER_TENSORS = (
    "input_layernorm",
    "post_attention_layernorm",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
VISION_TENSORS = (
    "layer_norm1",
    "layer_norm2",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.out_proj",
    "mlp.fc1",
    "mlp.fc2",
)


def published_names() -> set[str]:
    """The 603 tensor names of PaliGemma 3B."""
    text, vision = "language_model.model.", "vision_tower.vision_model."
    names = {f"{text}embed_tokens.weight", f"{text}norm.weight"}
    names |= {f"{text}layers.{i}.{part}.weight" for i in range(18) for part in LAYER_TENSORS}
    names |= {
        f"{vision}encoder.layers.{i}.{part}.{kind}"
        for i in range(27)
        for part in VISION_TENSORS
        for kind in ("weight", "bias")
    }
    names |= {f"{vision}embeddings.patch_embedding.{kind}" for kind in ("weight", "bias")}
    names |= {f"{vision}post_layernorm.{kind}" for kind in ("weight", "bias")}
    names |= {f"multi_modal_projector.linear.{kind}" for kind in ("weight", "bias")}
    return names | {f"{vision}embeddings.position_embedding.weight"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with one tiny checkpoint as transformers saves it."""
    folder = tmp_path_factory.mktemp("tiny")
    reference_model(tiny_config()).save_pretrained(folder)
    rewrite(folder, published_vision_names)
    return folder


@pytest.fixture
def copy(tiny, tmp_path):
    """A copy of the tiny checkpoint that a test may damage."""
    return shutil.copytree(tiny, tmp_path / "copy")


def opened(folder):
    return open_checkpoint(folder, ModelConfig.from_folder(folder))


def rewrite(folder, change):
    """Save the tensors of `folder` anew as `change` returns them."""
    tensors = change(load_file(folder / SINGLE_NAME))
    save_file({k: v.clone().contiguous() for k, v in tensors.items()}, folder / SINGLE_NAME)


def published_vision_names(tensors):
    """Newer transformers drop the inner `vision_model.` on saving; published files have it."""
    old, new = re.compile(r"^vision_tower\.(?!vision_model\.)"), "vision_tower.vision_model."
    return {old.sub(new, name): tensor for name, tensor in tensors.items()}


def without(name):
    """A change that leaves one tensor out."""
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name}


def split(folder, shards=3):
    """Turn the single file of `folder` into shards with an index; a layer straddles two of them."""
    tensors = load_file(folder / SINGLE_NAME)
    (folder / SINGLE_NAME).unlink()
    names, weight_map = sorted(tensors), {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = names[i * len(names) // shards : (i + 1) * len(names) // shards]
        save_file({name: tensors[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / INDEX_NAME).write_text(json.dumps(index))
    return index


def same(one: PaliGemma, other: PaliGemma) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


@pytest.mark.parametrize(
    ("size", "parameters"),
    [(224, 2_923_466_480), (448, 2_924_351_216), (896, 2_927_890_160)],
)
def test_the_published_sizes_have_the_published_tensors(size, parameters):
    with torch.device("meta"):
        model = PaliGemma(ModelConfig.from_dict(published(size)))
    state = model.state_dict()
    assert len(published_names()) == len(state) == 603
    assert {model_name(name) for name in published_names()} == set(state)
    assert sum(tensor.numel() for tensor in state.values()) == parameters
    vision = sum(t.numel() for name, t in state.items() if name.startswith("vision."))
    assert vision == {224: 412_442_352, 448: 413_327_088, 896: 416_866_032}[size]


RENAMES = {
    "state_dict of 4.52 to 5.5": [
        ("language_model.model.", "model.language_model."),
        ("vision_tower.", "model.vision_tower."),
        ("multi_modal_projector.", "model.multi_modal_projector."),
    ],
    "state_dict since 5.7": [
        ("language_model.model.", "model.language_model."),
        ("vision_tower.vision_model.", "model.vision_tower."),
        ("multi_modal_projector.", "model.multi_modal_projector."),
    ],
    "pi0": [
        ("language_model.model.", "paligemma_with_expert.paligemma.model.language_model."),
        ("vision_tower.", "paligemma_with_expert.paligemma.model.vision_tower."),
        ("multi_modal_projector.", "paligemma_with_expert.paligemma.model.multi_modal_projector."),
    ],
}


@pytest.mark.parametrize("scheme", RENAMES)
def test_every_naming_scheme_loads_the_same_model(tiny, copy, scheme):
    def rename(tensors):
        renamed = {}
        for name, tensor in tensors.items():
            old, new = next(pair for pair in RENAMES[scheme] if name.startswith(pair[0]))
            renamed[new + name.removeprefix(old)] = tensor
        return renamed

    rewrite(copy, rename)
    assert same(our_model(copy), our_model(tiny))


def test_a_state_dict_of_the_installed_transformers_loads(tiny, copy):
    state = reference_model(tiny_config()).state_dict()
    save_file({name: tensor.clone() for name, tensor in state.items()}, copy / SINGLE_NAME)
    assert "lm_head.weight" in state
    assert same(our_model(copy), our_model(tiny))


def test_shards_load_like_one_file(tiny, copy):
    split(copy)
    assert same(our_model(copy), our_model(tiny))


def test_a_hub_cache_snapshot_of_links_loads(tiny, tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for file in tiny.iterdir():
        shutil.copy(file, blobs / f"sha-{file.name}")
        (snapshot / file.name).symlink_to(f"../../blobs/sha-{file.name}")
    split_free = our_model(snapshot)
    assert same(split_free, our_model(tiny))


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("wanted", [None, torch.float32, torch.bfloat16])
def test_every_dtype_loads_as_every_other(tiny, copy, stored, wanted, monkeypatch):
    monkeypatch.setattr("vlmchat.shards.PIECE_BYTES", 1000)  # so that tensors come in many pieces
    rewrite(copy, lambda tensors: {name: t.to(stored) for name, t in tensors.items()})
    model, whole = our_model(copy, wanted), our_model(tiny)
    assert model.dtype == (wanted or stored)
    # A table beside a packed head stays as the file has it; its rows come out as all the rest.
    rows = model.text.embed_tokens(torch.arange(model.config.text.vocab_size))
    for name, tensor in (model.state_dict() | {"text.embed_tokens.weight": rows}).items():
        assert torch.equal(tensor, whole.state_dict()[name].to(stored).to(wanted or stored))


def test_weights_in_the_dtype_of_the_file_are_views_of_it(tiny):
    """No copy: tensors lie in memory as far apart as in the file, which is mapped as a whole."""
    with (tiny / SINGLE_NAME).open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    state = our_model(tiny).state_dict()
    starts = {model_name(name): entry["data_offsets"][0] for name, entry in header.items()}
    assert len({tensor.data_ptr() - starts[name] for name, tensor in state.items()}) == 1


def test_progress_counts_every_byte_once(tiny):
    checkpoint, seen = opened(tiny), []
    load_model(checkpoint, torch.float16, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (checkpoint.nbytes, checkpoint.nbytes)


def test_tables_without_a_row_for_the_image_token_load_with_a_notice(copy):
    name = "language_model.model.embed_tokens.weight"
    rewrite(copy, lambda tensors: tensors | {name: tensors[name][:300]})
    checkpoint = opened(copy)
    assert checkpoint.config.text.vocab_size == 300
    assert checkpoint.notices == ("config.json says 320 token rows, the file has 300",)
    assert load_model(checkpoint).text.embed_tokens.weight.shape[0] == 300


def test_positions_of_another_image_size_win_over_the_config(copy):
    name = "vision_tower.vision_model.embeddings.position_embedding.weight"
    rewrite(copy, lambda tensors: tensors | {name: tensors[name].repeat(4, 1)})
    checkpoint = opened(copy)
    assert checkpoint.config.vision.image_size == 56
    assert "positions for 56" in checkpoint.notices[0]


def test_a_stored_head_may_stand_in_for_the_table_or_must_equal_it(tiny, copy):
    table = "language_model.model.embed_tokens.weight"
    rewrite(copy, lambda tensors: tensors | {"lm_head.weight": tensors[table].clone()})
    assert same(our_model(copy), our_model(tiny))
    rewrite(copy, without(table))
    assert same(our_model(copy), our_model(tiny))
    rewrite(copy, lambda tensors: tensors | {table: tensors["lm_head.weight"] + 1})
    with pytest.raises(WeightsError, match=r"lm_head\.weight differs"):
        opened(copy)


Q_PROJ = "language_model.model.layers.1.self_attn.q_proj.weight"
WRONG_TENSORS = {
    "missing": (without(Q_PROJ), f"^{re.escape(Q_PROJ)} is missing"),
    "extra": (lambda t: t | {"adapter.weight": t[Q_PROJ]}, r"adapter\.weight is not part"),
    "extra layer": (
        lambda t: t | {Q_PROJ.replace(".1.", ".3."): t[Q_PROJ]},
        r"layers\.3\.self_attn\.q_proj",
    ),
    "doubled": (
        lambda t: t | {"model." + Q_PROJ.replace(".model.", "."): t[Q_PROJ]},
        "is there twice",
    ),
    "wrong shape": (
        lambda t: t | {Q_PROJ: t[Q_PROJ].T},
        r"q_proj.* is \[32, 64\] where .*\[64, 32\]",
    ),
    "wrong dtype": (lambda t: t | {Q_PROJ: t[Q_PROJ].to(torch.int8)}, "is I8: use a float32"),
    "empty": (lambda t: t | {Q_PROJ: torch.zeros(0, 4)}, "is empty"),
    "number": (lambda t: t | {Q_PROJ: torch.tensor(1.0)}, "is empty|where config"),
}


@pytest.mark.parametrize("case", WRONG_TENSORS)
def test_a_tensor_that_does_not_fit_is_named(copy, case):
    change, message = WRONG_TENSORS[case]
    rewrite(copy, change)
    with pytest.raises(WeightsError, match=message) as caught:
        opened(copy)
    assert "\n" not in str(caught.value)


def test_a_missing_tensor_has_its_published_name():
    assert {published_name(name) for name in map(model_name, published_names())} == (
        published_names()
    )


def test_an_absurd_config_ends_as_a_shape_mismatch_before_anything_is_allocated(copy):
    raw = json.loads((copy / "config.json").read_text())
    raw["text_config"]["intermediate_size"] = 131072
    raw["text_config"]["num_attention_heads"] = 256
    (copy / "config.json").write_text(json.dumps(raw))
    with pytest.raises(WeightsError, match=r"where config\.json asks for"):
        opened(copy)


def test_loading_does_not_import_the_compiler(tiny):
    """`torch._dynamo` takes a second, and nothing that is loaded needs it."""
    code = """
import sys
from pathlib import Path
from vlmchat.config import ModelConfig
from vlmchat.weights import load_model, open_checkpoint
folder = Path(sys.argv[1])
load_model(open_checkpoint(folder, ModelConfig.from_folder(folder)))
sys.exit("torch._dynamo" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code, str(tiny)], check=True)
