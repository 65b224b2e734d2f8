"""C code of this package, compiled on this machine for this machine, and loaded."""

import ctypes
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

COMPILERS = ("gcc", "cc", "clang")  # the first has the OpenMP that PyTorch has
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-fPIC", "-fno-math-errno", "-fno-trapping-math")
PATIENCE_S = 60  # it takes one


class NotCompiledError(Exception):
    """Why there is no library, in half a line."""


def compiled(source: Path, flags: Sequence[str] = ()) -> ctypes.CDLL:
    """The library that `source` makes, for the processor at hand; nothing stays on the disk.

    Its threads are PyTorch's: it is linked without OpenMP, whose functions it finds in what PyTorch
    has loaded. `flags` come behind our own. Raises NotCompiledError.
    """
    compiler = _compiler()
    try:
        with tempfile.TemporaryDirectory(prefix="vlmchat-") as folder:
            code, library = f"{folder}/code.o", f"{folder}/code.so"
            _run([*compiler, *FLAGS, "-fopenmp", *flags, "-c", str(source), "-o", code])
            _run([*compiler, "-shared", code, "-o", library])
            return _loaded(library)
    except OSError as error:
        raise NotCompiledError(f"no folder to compile in ({error.strerror})") from error


def _loaded(library: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(library)
    except OSError as error:
        why = str(error).removeprefix(f"{library}: ")
        raise NotCompiledError(f"what was compiled cannot be loaded ({why})") from error


def _compiler() -> list[str]:
    """The command in the variable CC, or the first compiler that there is."""
    try:
        named = shlex.split(os.environ.get("CC", ""))
    except ValueError as error:
        raise NotCompiledError(f"CC is no command ({error})") from error
    if named:
        return named
    for name in COMPILERS:
        if path := shutil.which(name):
            return [path]
    raise NotCompiledError("no C compiler found")


def _run(command: Sequence[str]) -> None:
    """Run a compiler; where it fails, its first complaint is the reason."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=os.environ | {"LC_ALL": "C"},  # complaints in English
            timeout=PATIENCE_S,
        )
    except OSError as error:
        raise NotCompiledError(f"{command[0]} cannot be run ({error.strerror})") from error
    except subprocess.TimeoutExpired as error:
        raise NotCompiledError(f"{command[0]} took over {PATIENCE_S} s") from error
    if done.returncode:
        complaints = [line for line in done.stderr.splitlines() if "error: " in line]
        first = complaints[0].partition("error: ")[2] if complaints else "no reason given"
        raise NotCompiledError(f"{command[0]} failed ({first.removeprefix('#error ')})")
