"""Looking into an answer gives the numbers that made it, computed another way."""

import math

import pytest
import torch

from tests.reference import our_model, reference_model, tiny_config
from tests.test_engine import GREEDY, ask, picture
from tests.tiny import save_tokenizer
from vlmchat.engine import Engine
from vlmchat.errors import UserError
from vlmchat.explain import attention, choices, tokens_of
from vlmchat.model import gemma
from vlmchat.processor import Processor
from vlmchat.sampling import Sampling

CASES = [
    (True, "kv", "answer en what is this"),
    (True, "exact", "answer en what is this"),
    (True, "kv", "caption en"),
    (False, "kv", "detect red circle"),
    (False, "exact", "detect red circle"),
]


@pytest.fixture(scope="module", params=[1, 2], ids=["one-kv-head", "two-kv-heads"])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("explain")
    tokenizer = save_tokenizer(folder)
    image_id = tokenizer.token_to_id("<image>")
    config = tiny_config(rows=image_id + 8, image_id=image_id, kv_heads=request.param)
    reference_model(config, seed=3).save_pretrained(folder)
    return folder


def make_engine(folder, image_attends_to_text):
    model = our_model(folder, image_attends_to_text=image_attends_to_text)
    return Engine(model, Processor.from_folder(folder, model.config))


@pytest.mark.parametrize(("attends", "mode", "prompt"), CASES)
def test_probabilities_are_those_of_the_stream(folder, attends, mode, prompt):
    engine = make_engine(folder, attends)
    reply = ask(engine, prompt, mode=mode, sampling=Sampling(max_tokens=6, temperature=1, seed=4))
    steps = choices(engine, picture(), reply, count=2)
    assert [step.chosen.token_id for step in steps] == list(reply.token_ids)
    again = [math.log(step.chosen.probability) for step in steps]
    assert again == pytest.approx(reply.logprobs, abs=1e-3)
    for step in steps:
        assert len(step.others) == 2
        assert step.chosen.token_id not in [other.token_id for other in step.others]
        assert step.others[0].probability >= step.others[1].probability


def test_runners_up_are_the_largest_of_the_rest(folder):
    engine = make_engine(folder, True)
    reply = ask(engine, "caption en", sampling=Sampling(max_tokens=1))
    (step,) = choices(engine, picture(), reply, count=4)
    best = engine.first_logits("caption en", picture()).softmax(-1).topk(5)
    assert [step.chosen.token_id, *(c.token_id for c in step.others)] == best.indices.tolist()
    got = [step.chosen.probability, *(c.probability for c in step.others)]
    assert got == pytest.approx(best.values.tolist(), abs=1e-5)


def test_an_answer_without_an_image_can_be_explained(folder):
    engine = make_engine(folder, True)
    reply = ask(engine, "what is this", image=None)
    again = [math.log(step.chosen.probability) for step in choices(engine, None, reply)]
    assert again == pytest.approx(reply.logprobs, abs=1e-3)


def by_hand(engine, prompt, mode):
    """The attention (N, T, S) of each layer while an answer streams, written out head by head."""
    seen = []

    def attend(q, k, v, scale, mask):
        rows = [[[float(torch.dot(a, b)) * scale for b in k[0, n * k.shape[1] // q.shape[1]]]
                 for a in q[0, n, -1:]] for n in range(q.shape[1])]  # fmt: skip
        powers = [[[math.exp(value - max(row)) for value in row] for row in head] for head in rows]
        seen.append(torch.tensor([[[p / sum(row) for p in row] for row in h] for h in powers]))
        return unchanged(q, k, v, scale, mask)

    unchanged = gemma.attend
    gemma.attend = attend
    try:
        reply = ask(engine, prompt, mode=mode)
    finally:
        gemma.attend = unchanged
    layers = len(engine.config.text.layers)
    return reply, [seen[at::layers] for at in range(layers)]


@pytest.mark.parametrize(("attends", "mode", "prompt"), CASES[1:4])
def test_attention_is_softmax_by_hand_at_every_step(folder, attends, mode, prompt):
    engine = make_engine(folder, attends)
    reply, layers = by_hand(engine, prompt, mode)
    got = attention(engine, picture(), reply)
    images = engine.config.image_tokens
    assert got.shape == (len(layers), len(reply.token_ids), images)
    for layer, steps in zip(got, layers, strict=True):
        written = steps[-len(reply.token_ids) :]  # before them, a kept block may have been filled
        for row, step in zip(layer, written, strict=True):
            assert step.sum(-1).allclose(torch.ones(step.shape[0], 1), atol=1e-5)
            assert row.allclose(step[:, 0, :images].mean(0), atol=1e-5)
            assert 0 < float(row.sum()) <= 1 + 1e-5


def test_nothing_stays_in_the_model(folder):
    engine = make_engine(folder, True)
    reply = ask(engine, "caption en")
    attention(engine, picture(), reply)
    assert all(not module._forward_pre_hooks for module in engine.model.modules())
    assert ask(engine, "caption en").token_ids == reply.token_ids


def test_an_answer_that_was_stopped_at_once_cannot_be_explained(folder):
    engine = make_engine(folder, True)
    reply = ask(engine, "caption en", sampling=GREEDY, cancelled=lambda: True)
    with pytest.raises(UserError, match="no tokens"):
        choices(engine, picture(), reply)


WORDS = [
    ("red", ["a", " red", " cat"], [1]),
    ("RED CAT", ["a", " re", "d", " cat", ""], [1, 2, 3]),
    ("a", ["a", " red", " cat"], [0, 2]),
    ("red", ["red", " and", " red"], [0, 2]),
    ("ed c", ["", "a r", "", "ed", " c", "at", ""], [3, 4]),
]


@pytest.mark.parametrize(("word", "pieces", "tokens"), WORDS)
def test_a_word_is_found_in_the_pieces(word, pieces, tokens):
    assert tokens_of(word, pieces) == tokens


@pytest.mark.parametrize("word", ["dog", "", "red  cat"])
def test_a_word_that_is_not_there(word):
    with pytest.raises(UserError, match="not in the last answer"):
        tokens_of(word, ["a", " red", " cat"])
