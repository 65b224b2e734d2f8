"""Prompts word for word, and answers full of places: a table, and random soup."""

import random

import pytest

from vlmchat import tasks
from vlmchat.errors import UserError
from vlmchat.tasks import Detection, is_fixed, is_task, leading_words, parse_detections, wrap

BOX = "<loc0000><loc0341><loc0682><loc1023>"
WRITTEN = (0.0, 341 / 1023, 682 / 1023, 1.0)
MASK = "".join(f"<seg{code:03}>" for code in range(16))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("answer en what is this", True),
        ("  caption en", True),
        ("ocr", True),
        ("detect\tcat", True),
        ("question en two", True),
        ("describe", True),
        ("cap en", True),
        ("segment a ; b", True),
        ("Detect cat", False),  # as written: PaliGemma's words are lower case
        ("detection of cats", False),
        ("ocr: read it", False),
        ("what does the caption say", False),
        ("captions", False),
        ("", False),
        ("  ", False),
    ],
)
def test_a_task_word_is_whole_first_and_lower_case(text, expected):
    assert is_task(text) is expected


@pytest.mark.parametrize(
    ("prompt", "lead", "fixed"),
    [
        ("answer en what is this", "answer en", False),
        ("answer en", "answer en", False),
        ("answer what is this", "answer", False),
        ("question de zwei", "question de", False),
        ("caption en", "caption en", True),
        ("cap fr\n", "cap fr", True),
        ("describe en", "describe en", True),
        ("caption", "caption", False),
        ("caption <loc0001><loc0002><loc0003><loc0004>", "caption", False),
        ("caption en please", "caption en", False),
        ("ocr", "ocr", True),
        ("ocr this", "ocr", False),
        ("detect cat ; dog", "detect", False),
        ("detect en", "detect", False),  # "en" is the thing to find
        ("segment cat", "segment", False),
        ("what is this", "", False),
        ("Caption en", "", False),
        ("", "", False),
    ],
)
def test_what_the_prompts_of_a_task_share(prompt, lead, fixed):
    assert leading_words(prompt) == lead
    assert is_fixed(prompt) is fixed
    assert prompt.startswith(lead)


def test_prompts_are_written_as_the_models_were_trained():
    assert tasks.caption() == "caption en"
    assert tasks.caption("es") == "caption es"
    assert tasks.ocr() == "ocr"
    assert tasks.detect(["cat", "red car"]) == "detect cat ; red car"
    assert tasks.segment(["cat"]) == "segment cat"


def test_the_template_is_filled_and_the_question_left_alone():
    assert wrap("what is {0} {question} %s?", "answer en {question}") == (
        "answer en what is {0} {question} %s?"
    )
    assert wrap("why", "{x} {question}!") == "{x} why!"
    with pytest.raises(UserError, match=r"no \{question\}"):
        wrap("why", "answer en")


@pytest.mark.parametrize(
    ("answer", "labels"),
    [
        ("<loc0051><loc0309><loc0708><loc0646> shoe", ["shoe"]),
        (f"{BOX} cat ; {BOX} big dog", ["cat", "big dog"]),
        (f"{BOX} cat;{BOX} dog", ["cat", "dog"]),
        (f"{BOX} cat; dog", ["cat"]),
        (f"{BOX}; dog", [""]),
        (f"{BOX} AC;DC ; {BOX}", ["AC;DC", ""]),
        (f"{BOX} x <3 y > z", ["x <3 y > z"]),
        (f"{BOX} cat{BOX} dog", ["cat", "dog"]),
        (f"{BOX}\ncat", [""]),
        (f"{BOX} cat\nand more", ["cat"]),
        (f"{BOX}{MASK} cat ; {BOX} {MASK} dog", ["cat", "dog"]),
        (f"{BOX}{MASK}{BOX}{MASK} dog", ["", "dog"]),
        (f"see > {BOX} cat", ["cat"]),
        (f">{BOX} cat", ["cat"]),
        (f"{BOX}<loc0001> five", []),
        (f"{BOX}{BOX} eight", []),
        ("<loc0001><loc0002><loc0003> three", []),
        ("<loc0001> <loc0002> <loc0003> <loc0004> apart", []),
        ("<loc001><loc002><loc003><loc004> short", []),
        ("<loc\uff10\uff10\uff11\uff12><loc0001><loc0002><loc0003> not digits of ours", []),
        ("no cat here", []),
        ("", []),
    ],
)
def test_items_of_an_answer(answer, labels):
    assert [found.label for found in parse_detections(answer)] == labels


@pytest.mark.parametrize(
    ("places", "box"),
    [
        (BOX, WRITTEN),
        ("<loc0682><loc1023><loc0000><loc0341>", WRITTEN),  # corners the other way round
        ("<loc0000><loc0000><loc9999><loc1024>", (0.0, 0.0, 1.0, 1.0)),  # past the last bin
        ("<loc0341><loc0341><loc0341><loc0341>", (341 / 1023,) * 4),
    ],
)
def test_boxes_keep_y_first_and_stay_inside(places, box):
    assert parse_detections(f"{places} cat") == [Detection("cat", box)]


@pytest.mark.parametrize(
    ("answer", "mask"),
    [
        (f"{BOX}{MASK} cat", tuple(range(16))),
        (f"{BOX} {MASK} cat", tuple(range(16))),
        (f"{BOX} cat", None),
        (f"{BOX}{MASK[:-8]} cat", None),  # fifteen
        (f"{BOX}{MASK}<seg000> cat", None),  # seventeen
        (f"{BOX}{MASK[:-8]}<seg128> cat", None),  # a code that there is not
        (f"<loc0682><loc1023><loc0000><loc0341>{MASK} cat", None),  # would be mirrored
        (f"<loc0001><loc0002><loc0001><loc0004>{MASK} cat", None),  # without height
    ],
)
def test_a_mask_is_whole_or_left_out_and_its_box_stays(answer, mask):
    (found,) = parse_detections(answer)
    assert (found.label, found.mask_codes) == ("cat", mask)


def test_a_box_in_pixels_turns_x_first():
    found = Detection("cat", (0.0, 0.25, 0.5, 1.0))
    assert found.pixel_box((400, 200)) == (100.0, 0.0, 400.0, 100.0)


def test_big_visions_encoding_comes_back_within_half_a_bin():
    """The published training code writes round(coordinate * 1023), y first."""
    rng = random.Random(0)
    for _ in range(200):
        box = (rng.uniform(0, 0.5), rng.uniform(0, 0.5), rng.uniform(0.5, 1), rng.uniform(0.5, 1))
        written = "".join(f"<loc{round(side * 1023):04}>" for side in box)
        (found,) = parse_detections(f"{written} thing")
        assert found.box == pytest.approx(box, abs=0.5 / 1023 + 1e-9)


def test_no_answer_breaks_the_parser():
    rng = random.Random(0)
    crumbs = [
        BOX,
        MASK,
        "<loc0001>",
        "<seg127>",
        "<loc",
        ">",
        ";",
        " ; ",
        "\n",
        " ",
        "cat",
        "é",
        "\0",
    ]
    parsed = 0
    for _ in range(3000):
        soup = "".join(rng.choices(crumbs, k=rng.randrange(20)))
        for found in parse_detections(soup):
            parsed += 1
            y0, x0, y1, x1 = found.box
            assert 0 <= y0 <= y1 <= 1
            assert 0 <= x0 <= x1 <= 1
            assert "\n" not in found.label
            assert "<loc0" not in found.label
            assert found.mask_codes is None or len(found.mask_codes) == 16
    assert parsed > 1000
