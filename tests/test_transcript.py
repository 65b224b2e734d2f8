"""Conversations as text: one object an answer, whole Markdown files, no text taken for markup."""

import json
import math
from dataclasses import replace

import pytest

from tests.scripted import TIMING
from vlmchat.engine import Reply
from vlmchat.session import Turn
from vlmchat.tasks import parse_detections
from vlmchat.transcript import as_text, record

FOUND = "<loc0000><loc0512><loc1023><loc1023> cat"


def turn(text, line="/detect cat", image="cat.png", prompt="detect cat", reason="stop"):
    reply = Reply(
        prompt=prompt,
        text=text,
        token_ids=(10, 1),
        logprobs=(-0.12345678, -1.5),
        finish_reason=reason,
        prefix_mode="kv",
        reused_tokens=18,
        computed_tokens=4,
        timing=TIMING,
    )
    size = None if image is None else (640, 480)
    return Turn(line, image, size, reply, tuple(parse_detections(text)))


EXPECTED = {
    "schema": 1,
    "prompt": "detect cat",
    "text": FOUND,
    "token_ids": [10, 1],
    "logprobs": [-0.123457, -1.5],
    "finish_reason": "stop",
    "image": "cat.png",
    "detections": [{"label": "cat", "box": [320, 0, 640, 480]}],
    "timing": {"image_s": 0.25, "first_token_s": 0.5, "total_s": 1.5, "tokens_per_s": 4.0},
    "prefix": {"mode": "kv", "reused_tokens": 18, "computed_tokens": 4},
}


def test_the_object_of_an_answer():
    assert record(turn(FOUND)) == EXPECTED
    assert list(record(turn(FOUND))) == list(EXPECTED)


def test_both_json_formats_hold_the_same_objects():
    turns = [turn(FOUND), turn("nein\n", image=None)]
    objects = [record(each) for each in turns]
    assert json.loads(as_text(turns, "json")) == objects
    lines = as_text(turns, "jsonl").splitlines()
    assert [json.loads(line) for line in lines] == objects
    assert (objects[1]["image"], objects[1]["detections"]) == (None, [])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_cannot_hold_become_null(bad):
    odd = turn("x")
    reply = replace(odd.reply, logprobs=(bad,), timing=replace(TIMING, tokens_per_s=bad))
    [line] = as_text([replace(odd, reply=reply)], "jsonl").splitlines()
    read = json.loads(line, parse_constant=pytest.fail)
    assert (read["logprobs"], read["timing"]["tokens_per_s"]) == ([None], None)


def test_names_in_another_encoding_and_line_separators_stay_on_one_valid_line():
    text = as_text([turn("a\u2028b\x85c\nd\x1b[31m", image="caf\udce9.png")], "jsonl")
    assert text.isascii()
    [line] = text.splitlines()
    assert json.loads(line)["image"] == "caf?.png"
    assert json.loads(line)["text"] == "a\u2028b\x85c\nd\x1b[31m"


MARKDOWN = """\
# Conversation with `demo`

## 1. `/detect cat`

Image: `cat.png`, 640x480

Prompt: `detect cat`

    <loc0000><loc0512><loc1023><loc1023> cat

- `cat` at (320, 0, 640, 480)

## 2. `hello`

    first line
    second *line*

(ended at the token limit)

## 3. `` a `tick` here ``

(an empty answer)

(stopped by hand)
"""


def test_markdown_to_read():
    turns = [
        turn(FOUND),
        turn("first line\nsecond *line*\n", "hello", None, "hello", "length"),
        turn("", "a `tick` here", None, "a `tick` here", "cancelled"),
    ]
    assert as_text(turns, "md", "demo") == MARKDOWN


def test_markdown_holds_no_control_sequences_and_no_raw_markup():
    hostile = "\x1b]52;c;AAAA\x07<script>\n# not a heading"
    text = as_text([turn(hostile, hostile, "\x1b[2Jcat\udce9.png", hostile)], "md")
    assert not {char for char in text if ord(char) < 32 and char != "\n"}
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# Conversation",
        "## 1. `\ufffd]52;c;AAAA\ufffd<script> # not a heading`",
    ]
    assert "    # not a heading" in text.splitlines()
    text.encode("utf-8")
