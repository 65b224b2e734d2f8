"""Lines of a pipe: whole ones only, in text mode's words, and never a wait in `ready`."""

import io
import os

import pytest

from vlmchat.terminal.lines import CHUNK, Lines

CASES = [
    (b"", []),
    (b"\n", ["\n"]),
    (b"one\ntwo\n", ["one\n", "two\n"]),
    (b"one\r\ntwo\rthree", ["one\n", "two\n", "three"]),
    (b"caf\xc3\xa9\ncaf\xe9\n", ["caf\u00e9\n", "caf\ufffd\n"]),
    (b"cut \xc3", ["cut \ufffd"]),
    (b"x" * CHUNK + b"\xc3\xa9\n" + b"y" * CHUNK, ["x" * CHUNK + "\u00e9\n", "y" * CHUNK]),
    (b"x" * (CHUNK - 1) + b"\r\ny", ["x" * (CHUNK - 1) + "\n", "y"]),
]


def text(data):
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8")


@pytest.mark.parametrize(("data", "lines"), CASES)
def test_lines(data, lines):
    assert list(Lines(text(data))) == lines
    asked = Lines(text(data))
    assert [line for line in asked if asked.ready()] == lines


def test_a_pipe_says_what_it_has():
    read_end, write_end = os.pipe()
    with open(read_end, encoding="utf-8") as pipe, open(write_end, "wb", buffering=0) as writer:
        lines = Lines(pipe)
        assert not lines.ready()
        writer.write(b"one\ntw")
        assert lines.ready()
        assert next(lines) == "one\n"
        assert not lines.ready()
        assert not lines.ready()
        writer.write(b"o\nthree")
        assert next(lines) == "two\n"
        assert not lines.ready()
        writer.close()
        assert lines.ready()
        assert next(lines) == "three"
        assert lines.ready()
        assert list(lines) == []
