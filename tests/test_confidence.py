"""How sure the model was of a box, from the tokens that wrote it and from no other."""

import math

import pytest

from vlmchat.confidence import confidence, spans
from vlmchat.tasks import parse_detections

BOX = ["<loc0001>", "<loc0002>", "<loc0003>", "<loc0004>"]
HALF, QUARTER = math.log(0.5), math.log(0.25)


def sure(pieces, logprobs):
    return [confidence(found, pieces, logprobs) for found in parse_detections("".join(pieces))]


def test_it_is_the_geometric_mean_of_the_four_places():
    assert sure([*BOX, " cat", ""], [0.0, HALF, QUARTER, HALF, -9.0, -9.0]) == pytest.approx([0.5])


def test_each_box_has_its_own():
    pieces = ["so:", *BOX, " cat", " ;", " ", *BOX, " dog", ""]
    logprobs = [-9.0, *[HALF] * 4, -9.0, -9.0, -9.0, *[QUARTER] * 4, -9.0, -9.0]
    assert sure(pieces, logprobs) == pytest.approx([0.5, 0.25])


def test_places_that_are_spelt_out_count_by_their_characters():
    pieces = ["".join(BOX[:2]), "<loc0003><", "loc0004>", " cat"]
    assert sure(pieces, [HALF, HALF, QUARTER, -9.0]) == pytest.approx([2 ** (-4 / 3)])


def test_tokens_that_are_not_known_give_none():
    (found,) = parse_detections("".join(BOX))
    assert confidence(found, (), ()) is None


def test_spans_lie_behind_one_another():
    assert list(spans(["ab", "", "c"])) == [(0, 2), (2, 2), (2, 3)]
