"""Choosing a token: against plain Python, by counting draws, and at the edges of the ranges."""

import math
from collections import Counter

import pytest
import torch

from vlmchat.errors import UserError
from vlmchat.sampling import Sampler, Sampling, restrict

LOGITS = torch.tensor([1.0, 3.0, -2.0, 2.5, 0.0, -torch.inf, 2.9])


def allowed(logits: list[float], top_k: int, top_p: float) -> dict[int, float]:
    """Tokens and probabilities that top-k and then top-p leave, the slow and plain way."""
    ranked = sorted(range(len(logits)), key=lambda i: -logits[i])
    ranked = [i for i in ranked[: top_k or None] if logits[i] > -math.inf]
    total = sum(math.exp(logits[i]) for i in ranked)
    kept, reached = {}, 0.0
    for i in ranked:
        if reached >= top_p:
            break
        kept[i] = math.exp(logits[i])
        reached += kept[i] / total
    weight = sum(kept.values())
    return {i: value / weight for i, value in kept.items()}


@pytest.mark.parametrize("top_k", [0, 1, 2, 5, 40, 1000])
@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.5, 0.1, 1e-9])
def test_what_is_left_out_equals_the_plain_way(top_k, top_p):
    generator = torch.Generator().manual_seed(top_k)
    for _ in range(20):
        logits = 3 * torch.randn(60, generator=generator)
        kept = restrict(logits, Sampling(temperature=1, top_k=top_k, top_p=top_p)).softmax(-1)
        wanted = allowed(logits.tolist(), top_k, top_p)
        assert set(kept.nonzero().flatten().tolist()) == set(wanted)
        for token, probability in wanted.items():
            assert float(kept[token]) == pytest.approx(probability, abs=1e-5)


def test_top_p_takes_the_token_that_reaches_it_and_none_after():
    logits = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()
    for top_p, count in [(0.4, 1), (0.6, 2), (0.74, 2), (0.76, 3), (0.99, 4)]:
        kept = restrict(logits, Sampling(temperature=1, top_p=top_p))
        assert int((kept > -torch.inf).sum()) == count


def test_top_k_is_exact_where_scores_tie():
    for top_k in (1, 2, 3):
        kept = restrict(torch.tensor([1.0, 1, 1, 0, 1]), Sampling(temperature=1, top_k=top_k))
        assert int((kept > -torch.inf).sum()) == top_k


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0, seed=5),
        Sampling(temperature=0.5, seed=5),
        Sampling(temperature=2.0, top_k=3, seed=5),
        Sampling(temperature=1.0, top_p=0.7, seed=5),
        Sampling(temperature=1.5, top_k=4, top_p=0.8, seed=5),
    ],
    ids=["plain", "cold", "top-k", "top-p", "all"],
)
def test_draws_are_as_frequent_as_they_should_be(sampling):
    """Within five standard deviations; the seed is fixed, so this never flickers."""
    sampler, draws = Sampler(sampling), 4000
    counts = Counter(sampler.pick(LOGITS)[0] for _ in range(draws))
    scaled = (LOGITS / sampling.temperature).tolist()
    wanted = allowed(scaled, sampling.top_k, sampling.top_p)
    assert set(counts) <= set(wanted)
    for token, probability in wanted.items():
        spread = math.sqrt(draws * probability * (1 - probability))
        assert abs(counts[token] - draws * probability) <= 5 * spread + 1e-9


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=0, top_k=2, top_p=0.1, seed=1)]
)
def test_greedy_is_the_likeliest(sampling):
    token, logprob = Sampler(sampling).pick(LOGITS)
    assert token == 1
    assert logprob == pytest.approx(float(LOGITS.log_softmax(-1)[1]))


@pytest.mark.parametrize("temperature", [1e-3, 1e-6, 1e-38, 1e-46, 5e-324])
def test_the_coldest_temperatures_are_greedy(temperature):
    sampler = Sampler(Sampling(temperature=temperature, seed=0))
    assert {sampler.pick(LOGITS)[0] for _ in range(20)} == {1}


@pytest.mark.parametrize("temperature", [1e9, 1e30, 1e300])
def test_the_hottest_temperatures_draw_among_all_that_may_be_drawn(temperature):
    sampler = Sampler(Sampling(temperature=temperature, seed=0))
    assert {sampler.pick(LOGITS)[0] for _ in range(300)} == {0, 1, 2, 3, 4, 6}


@pytest.mark.parametrize(
    "sampling",
    [Sampling(temperature=2.0, seed=3), Sampling(temperature=0.3, top_k=3, top_p=0.9, seed=3)],
)
def test_logprobs_are_the_models_own(sampling):
    """Whatever the sampling, the number says how likely the model found the token."""
    sampler, own = Sampler(sampling), LOGITS.log_softmax(-1)
    for _ in range(50):
        token, logprob = sampler.pick(LOGITS)
        assert logprob == pytest.approx(float(own[token]))


def test_half_precision_scores_are_read_in_float32():
    logits = LOGITS.bfloat16()
    _, logprob = Sampler(Sampling()).pick(logits)
    assert logprob == float(logits.float().log_softmax(-1)[1])
    sampler = Sampler(Sampling(temperature=1, seed=0))
    assert {sampler.pick(logits)[0] for _ in range(100)} <= {0, 1, 2, 3, 4, 6}


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1, top_k=2, top_p=0.5)])
@pytest.mark.parametrize("useless", [math.nan, math.inf])
def test_scores_that_are_no_numbers_are_refused_rather_than_answered(sampling, useless):
    logits = LOGITS.clone()
    logits[2] = useless
    with pytest.raises(UserError, match=r"scores are no numbers: .* --dtype bfloat16 or float32$"):
        Sampler(sampling).pick(logits)


def test_the_scores_are_left_as_they_were():
    logits = LOGITS.clone()
    Sampler(Sampling(temperature=0.7, top_k=2, top_p=0.5, seed=0)).pick(logits)
    assert torch.equal(logits, LOGITS)


def draw(seed: int | None) -> list[int]:
    sampler = Sampler(Sampling(temperature=5.0, seed=seed))
    return [sampler.pick(LOGITS)[0] for _ in range(64)]


def test_a_seed_repeats_and_none_does_not():
    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert draw(None) != draw(None)
    assert draw(2**63 - 1) == draw(2**63 - 1)


def test_draws_leave_the_global_random_state_alone():
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    draw(7)
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -0.1}, r"^temperature -0.1: it must be 0 or more$"),
        ({"temperature": math.nan}, r"^temperature nan: "),
        ({"temperature": math.inf}, r"^temperature inf: "),
        ({"top_k": -1}, r"^top-k -1: it must be 0 \(off\) or more$"),
        ({"top_p": 0.0}, r"^top-p 0.0: it must be above 0 and up to 1$"),
        ({"top_p": 1.01}, r"^top-p 1.01: "),
        ({"top_p": math.nan}, r"^top-p nan: "),
        ({"max_tokens": 0}, r"^max-tokens 0: it must be 1 or more$"),
        ({"seed": -1}, r"^seed -1: it must be from 0 to "),
        ({"seed": 2**63}, r"^seed 9223372036854775808: "),
    ],
)
def test_values_out_of_range_name_the_flag_and_the_range(values, message):
    with pytest.raises(UserError, match=message):
        Sampling(**values)


def test_the_edges_of_the_ranges_are_inside():
    Sampling(temperature=0, top_k=0, top_p=1.0, max_tokens=1, seed=0)
    Sampling(temperature=1e9, top_k=10**9, top_p=1e-9, max_tokens=10**9, seed=2**63 - 1)
