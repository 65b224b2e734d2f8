"""What is drawn over pictures: numbers that follow from where things are."""

import numpy as np
import pytest
from PIL import Image

from vlmchat.overlay import (
    PALETTE,
    boxes,
    color_of,
    draw_attention,
    draw_detections,
    plain,
)
from vlmchat.tasks import Detection, parse_detections

GREY = (100, 100, 100)


def grey(width=100, height=80):
    return Image.new("RGB", (width, height), GREY)


def changed(image):
    """Which pixels are no longer grey: (H, W)."""
    return (np.asarray(image) != GREY).any(-1)


def test_a_box_is_an_outline_in_the_colour_of_its_number():
    found = [Detection("a", (0.25, 0.1, 0.75, 0.5)), Detection("b", (0.8, 0.6, 0.9, 0.9))]
    image = grey()
    drawn = draw_detections(image, found)
    expected = np.zeros((80, 100), dtype=bool)
    expected[[20, 60], 10:51] = True
    expected[20:61, [10, 50]] = True
    expected[[64, 72], 60:91] = True
    expected[64:73, [60, 90]] = True
    assert (changed(drawn) == expected).all()
    assert drawn.getpixel((10, 30)) == color_of(1)
    assert drawn.getpixel((60, 64)) == color_of(2)
    assert not changed(image).any()


def test_a_large_picture_has_wider_lines_and_labels():
    found = [Detection("cat", (0.5, 0.5, 0.9, 0.9)), Detection("\u751f", (0.0, 0.9, 0.3, 1.0))]
    drawn = draw_detections(grey(600, 600), found)
    assert drawn.getpixel((302, 450)) == color_of(1)
    assert drawn.getpixel((540, 302)) == color_of(1)
    label = np.asarray(drawn.crop((306, 306, 340, 322)))
    assert (label == color_of(1)).all(-1).any()
    assert (label == 0).all(-1).any()


SOUP = [
    "<loc0000><loc0000><loc0000><loc0000> point",
    "<loc1023><loc1023><loc1023><loc1023> corner",
    "<loc0900><loc0900><loc0100><loc0100> backwards",
    "<loc0000><loc0000><loc1023><loc1023>",
    "<loc0000><loc0500><loc1023><loc0500> \x1b]52;c;x\x07 \ud800 \u202e" + "wide " * 50,
]


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (200, 170), (640, 480)])
def test_token_soup_is_drawn_without_falling_over(size):
    found = parse_detections(" ; ".join(SOUP))
    assert len(found) == len(SOUP)
    drawn = draw_detections(grey(*size), found)
    assert (drawn.size, drawn.mode) == (size, "RGB")
    assert changed(drawn).any()


def test_a_mask_colours_its_part_of_the_box():
    left = np.ones((64, 64), dtype=np.float32)
    left[:, 32:] = -1
    found = [Detection("a", (0.0, 0.0, 1.0, 0.5)), Detection("b", (0.5, 0.5, 1.0, 1.0))]
    drawn = draw_detections(grey(129, 129), found, [left, None])
    shaded = changed(drawn)[10:60]
    assert shaded[:, 1:31].all()
    assert not shaded[:, 34:63].any()
    red, _, blue = drawn.getpixel((10, 30))
    assert red > GREY[0]
    assert blue < GREY[2]


def test_numbers_go_with_the_boxes():
    found = [Detection(str(n), (0.1 * n, 0.2, 1.0, 1.0)) for n in range(1, 10)]
    marks = boxes(grey(), found).marks
    assert [mark.text for mark in marks] == [str(n) for n in range(1, 10)]
    assert [(mark.x, mark.y) for mark in marks] == [(0.2, 0.1 * n) for n in range(1, 10)]
    assert [mark.color for mark in marks] == [*PALETTE, *PALETTE[:2]]


def test_a_scene_paints_at_any_size():
    scene = boxes(grey(), [Detection("a", (0.0, 0.0, 1.0, 1.0))])
    assert scene.full().size == (100, 80)
    assert scene.paint(grey(20, 10)).getpixel((0, 5)) == color_of(1)
    assert plain(grey()).full().tobytes() == grey().tobytes()


def test_attention_lights_the_patches_that_drew_it():
    weights = np.zeros((4, 4), dtype=np.float32)
    weights[1, 2] = 0.5
    drawn = np.asarray(draw_attention(grey(80, 80), weights)).astype(int)
    assert drawn[30, 50, 0] > GREY[0]
    assert (drawn[70, 10] == 25).all()


def test_no_attention_at_all_is_dark():
    drawn = draw_attention(grey(8, 8), np.zeros((2, 2), dtype=np.float32))
    assert (np.asarray(drawn) == 25).all()
