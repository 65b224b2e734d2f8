"""A step of fixed shapes chooses what the ordinary step chooses, token for token."""

import shutil

import pytest
import torch

from tests.reference import our_model
from tests.test_engine import GREEDY, QUESTIONS, ask, folder, make_engine
from vlmchat.decode import EagerDecoder, FixedDecoder, FixedStep
from vlmchat.engine import Engine
from vlmchat.processor import Processor
from vlmchat.sampling import Sampling

__all__ = ["folder"]  # the fixture

DRAWN = Sampling(temperature=1.5, top_k=40, top_p=0.95, max_tokens=20, seed=5)
LONG = Sampling(max_tokens=40)


def fixed_engine(folder, *, run_ahead: bool = False, bucket: int = 16):
    """An engine whose steps have fixed shapes, and the list of the buckets it recorded."""
    engine = make_engine(folder)
    spans: list[int] = []

    def record(step: FixedStep):
        spans.append(step.slot.span)
        for _ in range(2):  # as compiling and then recording it does
            step.rehearse()
        return step.run

    engine.decoder = FixedDecoder(
        engine.model, engine.scores, record, run_ahead=run_ahead, bucket=bucket
    )
    return engine, spans


def assert_same_answers(plain, other, sampling: Sampling) -> None:
    for prompt in [*QUESTIONS, QUESTIONS[0]]:
        for mode in ("kv", "exact"):
            wanted = ask(plain, prompt, mode=mode, sampling=sampling)
            given = ask(other, prompt, mode=mode, sampling=sampling)
            assert given.token_ids == wanted.token_ids
            assert given.logprobs == pytest.approx(wanted.logprobs, abs=1e-4)
            assert len(set(given.token_ids)) > 1


@pytest.mark.parametrize("run_ahead", [False, True])
@pytest.mark.parametrize("sampling", [GREEDY, DRAWN, LONG])
def test_fixed_steps_answer_as_the_ordinary_ones(folder, sampling, run_ahead):
    engine, spans = fixed_engine(folder, run_ahead=run_ahead)
    assert_same_answers(make_engine(folder), engine, sampling)
    assert len(spans) == len(set(spans)) > 1  # each bucket was recorded once


def test_a_larger_cache_is_recorded_anew(folder):
    engine, spans = fixed_engine(folder, bucket=256)
    ask(engine, "caption en")
    more = ask(engine, "caption en", sampling=Sampling(max_tokens=300))
    assert spans == [256, 256, 512]
    wanted = ask(make_engine(folder), "caption en", sampling=Sampling(max_tokens=300))
    assert more.token_ids == wanted.token_ids


def test_a_step_started_ahead_is_not_taken_for_another_answers(folder):
    """Cut behind its third token, an answer leaves a step behind that nobody asked for."""
    engine, _ = fixed_engine(folder, run_ahead=True)
    reads = iter([False, False, False, True])
    cut = ask(engine, "caption en", "a", cancelled=lambda: next(reads))
    assert len(cut.token_ids) == 3
    for image in ("b", "a"):
        wanted = ask(make_engine(folder), "caption en", image)
        assert ask(engine, "caption en", image).token_ids == wanted.token_ids


def test_what_lies_behind_the_position_does_not_matter(folder):
    engine, _ = fixed_engine(folder)
    wanted = ask(engine, "caption en")
    with torch.inference_mode():
        for tensor in engine._room.keys + engine._room.values:
            tensor.fill_(100.0)
    assert ask(engine, "caption en").logprobs == wanted.logprobs


def test_on_a_cpu_nothing_changes_unless_it_is_compiled(folder):
    engine = make_engine(folder)
    assert engine.accelerate() == ()
    assert isinstance(engine.decoder, EagerDecoder)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's own, within its compiler
def test_without_a_compiler_one_line_says_so_and_answers_go_on(folder):
    import torch._inductor.config

    engine = make_engine(folder)
    with torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")}):
        notices = engine.accelerate(compiled=True)
    assert notices == ("--compile: No working C++ compiler found: decoding goes on without it",)
    assert_same_answers(make_engine(folder), engine, GREEDY)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiled_step_answers_as_the_ordinary_one(folder):
    engine = make_engine(folder)
    assert engine.accelerate(compiled=True) == ()
    assert isinstance(engine.decoder, FixedDecoder)
    assert_same_answers(make_engine(folder), engine, GREEDY)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_graphs_answer_as_the_ordinary_steps(folder):
    model = our_model(folder).cuda()
    plain, graphed = (Engine(model, Processor.from_folder(folder, model.config)) for _ in range(2))
    assert graphed.accelerate() == ()
    assert isinstance(graphed.decoder, FixedDecoder)
    assert_same_answers(plain, graphed, LONG)
    assert_same_answers(plain, graphed, DRAWN)
