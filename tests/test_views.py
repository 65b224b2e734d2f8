"""The pictures of an answer: what is drawn, where it comes from, and how it is saved."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.scripted import ScriptedEngine
from tests.test_explain import folder, make_engine  # noqa: F401  # a fixture
from vlmchat.errors import UserError
from vlmchat.explain import attention, tokens_of
from vlmchat.model.mask_decoder import MaskDecoder
from vlmchat.overlay import draw_attention, draw_detections
from vlmchat.sampling import Sampling
from vlmchat.session import Session, Settings
from vlmchat.views import boxes, look, save

CAT = "<loc0100><loc0100><loc0900><loc0900> cat"
MASKED = "<loc0100><loc0100><loc0900><loc0900>" + "<seg007>" * 16 + " cat"


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "cat.png"
    Image.new("RGB", (64, 48), "red").save(path)
    return path


def asked(image, *answers):
    session = Session(ScriptedEngine(*answers))
    if image is not None:
        session.add_image(image)
    for _ in answers:
        session.answer("detect cat")
    return session


def test_boxes_are_drawn_over_the_picture_of_their_answer(image, tmp_path):
    session = asked(image, CAT)
    turn = session.turns[-1]
    other = tmp_path / "other.png"
    Image.new("RGB", (64, 48), "blue").save(other)
    session.add_image(other)
    expected = draw_detections(Image.new("RGB", (64, 48), "red"), turn.detections)
    assert boxes(turn).full().tobytes() == expected.tobytes()


def test_there_are_no_boxes_without_places_or_without_an_image(image):
    assert boxes(asked(image, "a cat").turns[-1]) is None
    assert boxes(asked(None, CAT).turns[-1]) is None


def test_masks_are_drawn_where_there_is_a_decoder(image):
    torch.manual_seed(0)
    decoder = MaskDecoder().eval()
    torch.nn.init.constant_(decoder.decoder[-1].bias, 100.0)  # everything is inside
    turn = asked(image, MASKED).turns[-1]
    bare, masked = boxes(turn).full(), boxes(turn, decoder).full()
    differs = (np.asarray(bare) != np.asarray(masked)).any(-1)
    assert differs[10:38, 10:50].all()
    assert not differs[:4].any()


def test_the_boxes_are_saved_at_full_size(image, tmp_path):
    session = asked(image, CAT)
    save(session, tmp_path / "boxes.png")
    saved = Image.open(tmp_path / "boxes.png")
    assert saved.tobytes() == boxes(session.turns[-1]).full().tobytes()
    for name in ("boxes.jpg", "boxes.JPEG"):
        save(session, tmp_path / name)
        with Image.open(tmp_path / name) as jpeg:
            assert (jpeg.format, jpeg.size) == ("JPEG", (64, 48))


def test_what_cannot_be_saved_says_so(image, tmp_path):
    with pytest.raises(UserError, match="no picture to save"):
        save(asked(image, "a cat"), tmp_path / "x.png")
    with pytest.raises(UserError, match="no picture to save"):
        save(asked(image), tmp_path / "x.png")
    session = asked(image, CAT)
    with pytest.raises(UserError, match="cannot write"):
        save(session, tmp_path / "missing" / "x.png")
    with pytest.raises(UserError, match="cannot write"):
        save(session, tmp_path / "zero\0byte.png")


@pytest.fixture
def looking(folder, image):  # noqa: F811
    """A session with a tiny model that has answered, and its answer's attention (L, T, P)."""
    session = Session(make_engine(folder, True), Settings(sampling=Sampling(max_tokens=6)))
    session.add_image(image)
    reply = session.answer("what is this")
    return session, attention(session.engine, session.current, reply)


def test_a_look_is_the_mean_over_tokens_and_layers(looking, tmp_path):
    session, weights = looking
    seen = look(session)
    patches = weights.mean((0, 1))
    assert seen.share == pytest.approx(float(patches.sum()))
    assert seen.peak == [(16, 12), (48, 12), (16, 36), (48, 36)][int(patches.argmax())]
    expected = draw_attention(session.current.image, patches.view(2, 2).numpy())
    save(session, tmp_path / "look.png")
    assert Image.open(tmp_path / "look.png").tobytes() == expected.tobytes()


def test_a_look_at_a_word_in_a_layer(looking):
    session, weights = looking
    pieces = session.turns[-1].pieces
    word = pieces[0] + pieces[1]
    tokens = tokens_of(word, pieces)
    assert len(tokens) < len(pieces)
    expected = weights[1, tokens].mean(0).sum()
    assert look(session, word, layer=2).share == pytest.approx(float(expected))


def test_the_next_answer_ends_a_look(looking, tmp_path):
    session, _ = looking
    look(session)
    assert session.looked is not None
    session.answer("what is this")
    assert session.looked is None


@pytest.mark.parametrize("layer", [0, 4, 999])
def test_a_layer_that_there_is_not(looking, layer):
    with pytest.raises(UserError, match="choose one from 1 to 3"):
        look(looking[0], layer=layer)


def test_there_must_be_an_answer_about_an_image(image):
    with pytest.raises(UserError, match="no answer yet"):
        look(asked(image))
    with pytest.raises(UserError, match="had no image"):
        look(asked(None, "a cat"))
