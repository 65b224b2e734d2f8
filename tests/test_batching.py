"""Answers that are written together are those that are written one by one."""

from functools import partial

import pytest
import torch

from tests.test_engine import GREEDY, folder, make_engine, picture  # noqa: F401  # a fixture
from vlmchat.batching import SharedSequence
from vlmchat.engine import Piece, Reply
from vlmchat.errors import UserError
from vlmchat.sampling import Sampling

PROMPTS = [
    "answer en what is this",
    "answer en how many cat are there",
    "detect red circle",
    "caption en",
    "answer en the",
    "red circle",
    "caption en",
]


@pytest.fixture
def make(request):
    """Makes an engine that has seen nothing."""
    return partial(make_engine, request.getfixturevalue("folder"))


def together(engine, prompts, image="a", sampling=GREEDY, mode="kv", **how):
    """All replies, each stream read to its end in turn."""
    shown = picture(image) if image else None
    replies = []
    for stream in engine.stream_together(prompts, shown, sampling, mode, **how):
        *pieces, reply = stream
        assert all(isinstance(piece, Piece) for piece in pieces)
        assert isinstance(reply, Reply)
        assert "".join(piece.text for piece in pieces) == reply.text
        assert [piece.token_id for piece in pieces] == list(reply.token_ids)
        replies.append(reply)
    return replies


def one_by_one(engine, prompts, image="a", sampling=GREEDY, mode="kv"):
    shown = picture(image) if image else None
    return [list(engine.stream(prompt, shown, sampling, mode))[-1] for prompt in prompts]


def assert_same(found, wanted):
    """Everything but the timing, and logprobs to rounding."""
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.token_ids == theirs.token_ids
        assert torch.allclose(torch.tensor(ours.logprobs), torch.tensor(theirs.logprobs), atol=1e-4)
        for name in (
            *("prompt", "text", "finish_reason", "prefix_mode"),
            *("reused_tokens", "computed_tokens", "input_ids"),
        ):
            assert getattr(ours, name) == getattr(theirs, name)
        assert (ours.timing.image_s > 0) == (theirs.timing.image_s > 0)


@pytest.mark.parametrize("attends", [True, False])
@pytest.mark.parametrize("mode", ["kv", "exact"])
@pytest.mark.parametrize("image", ["a", None])
def test_together_equals_one_by_one(make, image, mode, attends):
    ours, theirs = (make(image_attends_to_text=attends) for _ in range(2))
    wanted = one_by_one(theirs, PROMPTS, image, mode=mode)
    assert_same(together(ours, PROMPTS, image, mode=mode), wanted)
    assert len({reply.token_ids for reply in wanted}) > 3


@pytest.mark.parametrize("mode", ["kv", "exact"])
def test_what_is_drawn_with_a_seed_is_the_same(make, mode):
    sampling = Sampling(temperature=1.5, top_k=50, top_p=0.9, seed=5, max_tokens=20)
    engine = make()
    wanted = one_by_one(engine, PROMPTS, sampling=sampling, mode=mode)
    found = together(engine, PROMPTS, sampling=sampling, mode=mode)
    assert [reply.token_ids for reply in found] == [reply.token_ids for reply in wanted]


def test_answers_end_at_steps_of_their_own(make, monkeypatch):
    engine = make()
    answers = [reply.token_ids for reply in one_by_one(engine, PROMPTS)]

    def ends(token):
        return {tokens.index(token) for tokens in answers if token in tokens}

    end = max(set().union(*answers), key=lambda token: len(ends(token)))
    monkeypatch.setitem(vars(engine.config), "eos_id", end)
    sampling = Sampling(max_tokens=max(ends(end)))
    wanted = one_by_one(engine, PROMPTS, sampling=sampling)
    assert len({len(reply.token_ids) for reply in wanted}) > 2
    assert {reply.finish_reason for reply in wanted} == {"stop", "length"}
    assert_same(together(engine, PROMPTS, sampling=sampling), wanted)


def test_the_image_is_computed_and_held_once(make, monkeypatch):
    engine = make()
    encoded = []
    encode = engine.model.encode_image
    monkeypatch.setattr(
        engine.model, "encode_image", lambda pixels: encoded.append(1) or encode(pixels)
    )
    adopted = []
    adopt = SharedSequence.adopt
    monkeypatch.setattr(
        SharedSequence, "adopt", lambda *given: adopted.append(given[1].length) or adopt(*given)
    )
    prompts = [f"answer en {word}" for word in ("what", "how many", "red", "is this")]
    replies = together(engine, prompts)
    lead = engine.config.image_tokens + len(engine.processor.lead_ids(prompts[0]))
    assert (encoded, adopted) == ([1], [lead])
    assert [reply.reused_tokens for reply in replies] == [0, lead, lead, lead]


def test_each_weight_is_read_once_a_step(make, monkeypatch):
    engine = make()
    together(engine, ["caption en"])  # so that the image is there
    layer, rows = engine.model.text.layers[0].mlp, []
    forward = layer.forward
    monkeypatch.setattr(layer, "forward", lambda x: rows.append(x.shape[1]) or forward(x))
    prompts = ["answer en what", "answer en how many"]
    together(engine, prompts, sampling=Sampling(max_tokens=3))
    processor = engine.processor
    lead = len(processor.lead_ids(prompts[0]))
    behind = sum(len(processor.prompt_ids(prompt)) - lead for prompt in prompts)
    assert rows == [engine.config.image_tokens + lead, behind, 2, 2]


def test_the_room_grows_with_long_answers(make):
    sampling = Sampling(max_tokens=150)
    wanted = one_by_one(make(), PROMPTS, sampling=sampling)
    assert_same(together(make(), PROMPTS, sampling=sampling), wanted)


def test_a_prompt_that_does_not_fit_costs_the_others_nothing(make):
    engine = make()
    object.__setattr__(engine.config.text, "max_positions", 40)
    prompts = ["caption en", "answer en " + "what " * 60, "answer en red"]
    first, too_long, last = engine.stream_together(prompts, picture(), GREEDY)
    found = [list(first)[-1]]
    with pytest.raises(UserError, match="ask something shorter"):
        list(too_long)
    found.append(list(last)[-1])
    wanted = [reply.token_ids for reply in one_by_one(engine, [prompts[0], prompts[2]])]
    assert [reply.token_ids for reply in found] == wanted
    with pytest.raises(UserError, match="ask something shorter"):
        together(engine, [prompts[1]])


@pytest.mark.parametrize("step", [0, 3])
def test_a_bug_costs_one_answer_and_the_rest_come_one_by_one(make, step, monkeypatch):
    engine = make()
    extend, calls = SharedSequence.extend, []

    def breaks(*given):
        calls.append(1)
        if len(calls) > step:
            raise RuntimeError("out of memory")
        return extend(*given)

    monkeypatch.setattr(SharedSequence, "extend", breaks)
    first, *others = engine.stream_together(PROMPTS, picture(), GREEDY)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(first)
    found = [list(stream)[-1].token_ids for stream in others]
    assert found == [reply.token_ids for reply in one_by_one(engine, PROMPTS[1:])]


def test_a_stream_whose_batch_broke_elsewhere_says_so(make, monkeypatch):
    engine = make()
    first, second = engine.stream_together(PROMPTS[:2], picture(), GREEDY)
    next(second)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(SharedSequence, "extend", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(first)
    with pytest.raises(KeyboardInterrupt):
        list(second)


def test_cancelling_ends_all_of_them(make):
    engine = make()
    reads = iter([False, False, True])
    found = together(engine, PROMPTS, cancelled=lambda: next(reads))
    assert {reply.finish_reason for reply in found} == {"cancelled"}
    wanted = one_by_one(engine, PROMPTS)
    assert [reply.token_ids for reply in found] == [reply.token_ids[:3] for reply in wanted]
    assert_same(together(engine, PROMPTS), wanted)


def test_streams_may_be_read_in_any_order_and_left(make):
    engine = make()
    wanted = one_by_one(engine, PROMPTS)
    streams = engine.stream_together(PROMPTS, picture(), GREEDY)
    next(streams[0])
    streams[0].close()
    found = [list(stream)[-1].token_ids for stream in reversed(streams[1:])]
    assert found == [reply.token_ids for reply in wanted[:0:-1]]
