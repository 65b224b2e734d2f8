"""The filer: reads a journal and makes a Comet experiment of it, in a process of its own.

    python -m vlmchat.tracking.filer [--follow] JOURNAL

It says on stdout, a line each, what a person should know. With `--follow` the chat still goes on:
each line on stdin says that the journal has grown, and their end that the chat is over.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from vlmchat.errors import UserError
from vlmchat.tracking.comet import CometError, CometExperiment
from vlmchat.tracking.destination import Destination
from vlmchat.tracking.journal import JournalReader, journal_folder
from vlmchat.tracking.records import Record

FILED, SAID_WHY, CUT_OFF = 0, 3, 4  # exit codes


def start(
    journal: Path, destination: Destination, follow: bool, said: IO[bytes] | int
) -> subprocess.Popen[bytes]:
    """A filer for a journal; what it says goes into `said`, a file or PIPE.

    It has no terminal, so that Ctrl-C is not for it. It works in the root folder, where nothing
    lies that Python would import in place of a library, and finds the libraries that we found.
    """
    arguments = [*(["--follow"] if follow else []), str(journal.absolute())]
    return subprocess.Popen(
        [sys.executable, "-m", "vlmchat.tracking.filer", *arguments],
        stdin=subprocess.PIPE if follow else subprocess.DEVNULL,
        stdout=said,
        stderr=subprocess.DEVNULL,
        cwd=Path(sys.prefix).anchor,
        env={
            **os.environ,
            **destination.environment,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        },
        start_new_session=True,
    )


def main() -> int:
    """File the journal that the command line names; the exit code."""
    *flags, name = sys.argv[1:]
    if hasattr(os, "nice"):
        os.nice(10)
    path, follow = Path(name), "--follow" in flags
    try:
        with JournalReader(path, alone=not follow) as journal:
            records = journal.follow(sys.stdin.buffer) if follow else journal.read()
            return _file(records, path, follow)
    except CometError as error:
        _say(f"Comet did not take the record ({error}): {kept(path)}")
    except UserError as error:
        _say(str(error))
    return SAID_WHY


def kept(path: Path) -> str:
    """Where a record is that could not be filed, and how to file it."""
    return f"it is kept, and vlmchat --track-import {shlex.quote(str(path))} files it"


def _file(records: Iterable[Record], path: Path, follow: bool) -> int:
    """Make the experiment and, once it has ended well, delete the journal.

    An archive cannot be looked at before it is whole, so offline the end of the chat is awaited
    first; a chat that is cut off then leaves its journal, and no archive that nobody was told of.
    Online all that was written has arrived by then, whatever ended the chat.
    """
    destination = Destination.read()
    if follow and not destination.online:
        records = list(records)
        if not records or records[-1]["kind"] != "end":
            return CUT_OFF
    iterator = iter(records)
    experiment = CometExperiment(_run_record(iterator, path), destination)
    if experiment.url:
        _say(f"Comet experiment: {experiment.url}")
    for record in iterator:
        experiment.log(record)
    archive = experiment.end()
    if archive is not None:
        _say(f"Comet archive: {archive}; comet upload {shlex.quote(str(archive))} sends it")
    if path.absolute().parent == journal_folder().absolute():
        with suppress(FileNotFoundError):
            path.unlink()
    return FILED


def _run_record(records: Iterator[Record], path: Path) -> Record:
    """The record that every journal begins with."""
    first = next(records, None)
    if first is None or first["kind"] != "run":
        raise UserError(f"{path} does not begin with a run: give a vlmchat journal")
    return first


def _say(line: str) -> None:
    """Tell the chat something, in one line."""
    sys.stdout.write(" ".join(line.split()) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
