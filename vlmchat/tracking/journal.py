"""The journal: one JSON object a line, on the disk before the next line of the chat is read.

A journal lives in a folder that only its owner can enter, and is locked by whoever writes or reads
it, so that a run can tell the journals of others that still chat from those that were left over.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO

from vlmchat.errors import UserError
from vlmchat.tracking.destination import state_folder
from vlmchat.tracking.records import Record

if sys.platform != "win32":
    import fcntl


def journal_folder() -> Path:
    """Where the journals of all runs live."""
    return state_folder() / "journals"


class Journal:
    """A new journal, open for writing. Raises OSError, when it is made and with each record."""

    def __init__(self, folder: Path | None = None) -> None:
        folder = folder or journal_folder()
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        started = time.strftime("%Y%m%d-%H%M%S")
        self.path = folder / f"{started}-{os.getpid()}-{time.monotonic_ns() % 10**6:06}.jsonl"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        self._file = os.fdopen(os.open(self.path, flags, 0o600), "wb", buffering=0)
        lock(self._file)

    def append(self, record: Record) -> None:
        """Write one record and wait until the disk has it. What is no Unicode becomes `?`."""
        text = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        line = memoryview(text.encode("utf-8", "replace"))
        while line:
            line = line[self._file.write(line) or 0 :]
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let go of the file; nothing is lost, since nothing is held back."""
        self._file.close()


class JournalReader:
    """A journal, open and locked for reading.

    `alone` reads one that nobody else may hold, as it is filed by hand. Raises UserError.
    """

    def __init__(self, path: Path, alone: bool) -> None:
        self.path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise UserError(f"cannot read the journal {path}: {error.strerror}") from error
        if not lock(self._file, exclusive=alone):
            self._file.close()
            raise UserError(f"the chat of {path} is still going on: leave it first")
        self._line = 0

    def __enter__(self) -> JournalReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def read(self) -> Iterator[Record]:
        """The whole lines that have not been read yet.

        A last line without its newline was cut short by whatever ended the run: it is left alone.
        Raises UserError for any other line that is no record.
        """
        while True:
            start = self._file.tell()
            line = self._file.readline()
            if not line.endswith(b"\n"):
                self._file.seek(start)
                return
            self._line += 1
            yield self._parse(line)

    def follow(self, pokes: Iterable[object]) -> Iterator[Record]:
        """Lines as they are written: more are looked for at each poke and when those end."""
        yield from self.read()
        for _ in pokes:
            yield from self.read()
        yield from self.read()

    def _parse(self, line: bytes) -> Record:
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or "kind" not in record:
            raise UserError(
                f"{self.path} line {self._line} is no record of a chat: give a vlmchat journal"
            )
        return record


def left_over(folder: Path | None = None) -> list[Path]:
    """The journals that nobody holds, oldest first: their chats were cut off, or not filed."""
    if sys.platform == "win32":  # without locks there is no telling: file those by hand
        return []
    found = []
    for path in _journals(folder or journal_folder()):
        try:
            with path.open("rb") as file:
                if lock(file, exclusive=True):
                    found.append(path)
        except OSError:  # filed by another run in this moment, or not ours to read
            continue
    return found


def _journals(folder: Path) -> list[Path]:
    """The journals of a folder, oldest first; none where it is not there or not ours to read."""
    try:
        return sorted(folder / name for name in os.listdir(folder) if name.endswith(".jsonl"))
    except OSError:
        return []


def lock(file: IO[bytes], exclusive: bool = False) -> bool:
    """Hold a file until it is closed, beside others or alone; False if somebody else is there.

    Beside others there is at most the moment to wait in which `left_over` tries the file.
    """
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB if exclusive else fcntl.LOCK_SH)
    except BlockingIOError:
        return False
    return True
