"""Records: what is kept of a run, an image, a turn."""

import base64
import io
import json

import pytest
import torch
from PIL import Image

from tests.reference import our_model, reference_model, tiny_config
from tests.scripted import ScriptedEngine
from tests.tiny import save_tokenizer
from vlmchat.engine import Engine
from vlmchat.images import Picture
from vlmchat.processor import Processor
from vlmchat.sampling import Sampling
from vlmchat.session import Session, Settings
from vlmchat.tracking import records
from vlmchat.transcript import record


@pytest.fixture
def cat(tmp_path):
    path = tmp_path / "cat.png"
    Image.new("RGB", (64, 48), "red").save(path)
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A real engine with a tiny random model."""
    folder = tmp_path_factory.mktemp("tiny")
    image_id = save_tokenizer(folder).token_to_id("<image>")
    reference_model(tiny_config(rows=image_id + 8, image_id=image_id)).save_pretrained(folder)
    model = our_model(folder)
    return Engine(model, Processor.from_folder(folder, model.config))


def test_a_run_is_the_model_the_versions_and_the_settings(tiny):
    session = Session(tiny, Settings(sampling=Sampling(seed=7)), model_name="a/model")
    run = records.run_record(session, quantize="int8")
    assert json.loads(json.dumps(run)) == run
    model = run["model"]
    assert (model["name"], model["quantize"]) == ("a/model", "int8")
    assert (model["dtype"], model["device"]) == ("float32", "cpu")
    assert model["parameters"] == tiny.parameters
    assert model["config"]["vision"]["hidden_size"] == 24
    assert len(model["config"]["text"]["layers"]) == 3
    assert run["versions"]["torch"] == torch.__version__
    assert run["settings"] == {
        "temperature": 0.0,
        "top_k": 0,
        "top_p": 1.0,
        "max_tokens": 256,
        "seed": 7,
        "prefix_cache": "kv",
        "template": "answer en {question}",
    }


def test_a_run_names_nothing_that_nobody_asked_for(tiny):
    run = records.run_record(Session(tiny))
    assert sorted(run) == ["kind", "model", "schema", "settings", "started", "versions"]
    assert sorted(run["versions"]) == sorted(["python", *records.PACKAGES])


@pytest.mark.parametrize("mode", ["kv", "exact"])
def test_a_turn_is_the_json_answer_and_what_the_model_read(tiny, cat, mode):
    session = Session(tiny, Settings(sampling=Sampling(max_tokens=4), prefix_cache=mode))
    session.add_image(cat)
    for line in ("what is this", "red circle"):
        session.answer(line)
    turn = session.turns[-1]
    kept = records.turn_record(session, turn, 2)
    assert json.loads(json.dumps(kept)) == {**kept, "boxes": []}
    assert record(turn).items() <= kept.items()
    assert (kept["kind"], kept["step"], kept["line"]) == ("turn", 2, "red circle")
    assert kept["image_key"] == session.pictures[0].key
    images = tiny.config.image_tokens
    prompt = tiny.processor.prompt_ids("answer en red circle")
    assert kept["input_ids"] == [tiny.config.image_token_id] * images + prompt
    computed = turn.reply.computed_tokens
    assert kept["attention_mask_shape"] == [1, 1, computed, images + len(prompt)]
    assert (computed < len(kept["input_ids"])) == (mode == "kv")
    assert kept["memory"]["process_bytes"] > 2**20


def test_a_turn_without_an_image_has_none():
    session = Session(ScriptedEngine("from memory"))
    session.answer("what ?")
    kept = records.turn_record(session, session.turns[0], 1)
    assert (kept["image"], kept["image_key"], kept["boxes"]) == (None, None, [])


def test_boxes_are_kept_as_the_model_wrote_them(cat):
    session = Session(ScriptedEngine("<loc0000><loc0000><loc1023><loc1023> cat"))
    session.add_image(cat)
    session.answer("detect cat")
    (box,) = records.turn_record(session, session.turns[0], 1)["boxes"]
    assert box == {"label": "cat", "box": (0.0, 0.0, 1.0, 1.0), "mask_codes": None}


def pixels_of(kept):
    return Image.open(io.BytesIO(base64.b64decode(kept["png"])))


def test_an_image_is_kept_by_content():
    image = Image.effect_noise((30, 20), 90).convert("RGB")
    kept = records.image_record(Picture(name="n.png", image=image, key="k"))
    assert (kept["key"], kept["name"], kept["size"]) == ("k", "n.png", [30, 20])
    assert pixels_of(kept).tobytes() == image.tobytes()


def test_a_large_image_is_kept_smaller_and_left_as_it_is():
    image = Image.new("RGB", (3000, 1000), "blue")
    kept = records.image_record(Picture(name="n.png", image=image, key="k"))
    assert kept["size"] == [3000, 1000]
    assert pixels_of(kept).size == (1024, 341)
    assert image.size == (3000, 1000)


def test_a_gpu_tells_its_own_peak(monkeypatch):
    engine = ScriptedEngine()
    engine.device = "cuda:0"
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 123)
    assert records.peak_memory(engine)["gpu_bytes"] == 123
