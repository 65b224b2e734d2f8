"""Lines of a pipe or file as they come, and whether the next is there already."""

from __future__ import annotations

import codecs
import io
import select
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from typing import TextIO

CHUNK = 8192  # bytes; no less than what a BufferedReader may hold back


class Lines:
    """The lines of a text stream, read from its bytes. Those that are no text become U+FFFD."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream  # it closes its bytes when nobody holds it
        self._bytes = cast("io.BufferedReader", stream.buffer)
        decoder = codecs.getincrementaldecoder(stream.encoding)("replace")
        self._decoder = io.IncrementalNewlineDecoder(decoder, translate=True)
        self._text = ""
        self._ended = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        while "\n" not in self._text and not self._ended:
            self._read()
        line, newline, self._text = self._text.partition("\n")
        if not (line or newline):
            raise StopIteration
        return line + newline

    def ready(self) -> bool:
        """Whether the next line, or the end, can be had without waiting for it."""
        while "\n" not in self._text and not self._ended:
            if not self._has_bytes():
                return False
            self._read()
        return True

    def _read(self) -> None:
        data = self._bytes.read1(CHUNK)
        self._ended = not data
        self._text += self._decoder.decode(data, final=self._ended)

    def _has_bytes(self) -> bool:
        try:
            return bool(select.select([self._bytes], [], [], 0)[0])
        except io.UnsupportedOperation:  # bytes in memory
            return True
        except OSError:  # Windows can ask this of sockets alone
            return False
