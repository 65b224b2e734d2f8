"""What a folder of safetensors files holds: headers first, then rows.

The format is a header of names, dtypes, shapes and offsets, then bytes. Several files are held
together by an index, which is a list of names from outside, and is treated as such.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vlmchat.errors import UserError
from vlmchat.hub import INDEX_NAME, SINGLE_NAME

MAX_INDEX_BYTES = 20_000_000
PIECE_BYTES = 256 * 2**20  # what is converted or moved at once
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


class WeightsError(UserError):
    """Weights that are missing, damaged, or not those of the model in `config.json`."""


@dataclass(frozen=True)
class Entry:
    """One tensor in a file, before it is read: where it is, and what the header says of it."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


def headers(folder: Path) -> Iterator[Entry]:
    """What the headers of all weight files in `folder` say, in the order of the files."""
    weight_map = _weight_map(folder)
    files = sorted(set(weight_map.values())) if weight_map else [SINGLE_NAME]
    seen: set[str] = set()
    for file in files:
        for entry in _header(folder / file):
            if weight_map and weight_map.get(entry.name) != file:
                raise WeightsError(
                    f"{file}: holds {entry.name}, which {INDEX_NAME} places in "
                    f"{weight_map.get(entry.name, 'no file')}: download the checkpoint again"
                )
            seen.add(entry.name)
            yield entry
    if lost := sorted(set(weight_map or ()) - seen):
        raise WeightsError(
            f"{weight_map[lost[0]]}: {listed(lost)} named by {INDEX_NAME} not there: "
            "download the checkpoint again"
        )


def _weight_map(folder: Path) -> dict[str, str]:
    """Tensor name -> file name of the index; empty where there is one file and no index.

    File names are checked as strings: they must stay in the folder. A hub cache is full of links
    that lead out of it, so that where they lead says nothing.
    """
    path = folder / INDEX_NAME
    if not path.exists():
        return {}
    try:
        if not path.is_file():  # a pipe would be waited for
            raise ValueError("not a file")
        if path.stat().st_size > MAX_INDEX_BYTES:
            raise ValueError("larger than 20 MB")
        raw = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_no_repeats)
        weight_map = dict(raw["weight_map"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsError(f"{path}: cannot be read ({error}): download it again") from error
    for file in weight_map.values():
        plain = isinstance(file, str) and Path(file).name == file and not file.startswith(".")
        if not plain or not file.endswith(".safetensors") or "\\" in file:
            raise WeightsError(f"{path}: {file!r} is no name of a weight file: download it again")
    return weight_map


def _header(path: Path) -> list[Entry]:
    """The tensors of one safetensors file, as its header describes them."""
    if not path.is_file():
        raise WeightsError(f"{path}: the file is missing: download the checkpoint again")
    try:
        with safe_open(path, framework="pt") as file:  # checks offsets and sizes
            slices = [(name, file.get_slice(name)) for name in file.keys()]  # noqa: SIM118
            found = [(name, tuple(s.get_shape()), str(s.get_dtype())) for name, s in slices]
        _refuse_repeats(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise WeightsError(f"{path}: damaged ({error}): download the file again") from error
    for name, _, dtype in found:
        if dtype not in DTYPES:
            raise WeightsError(
                f"{path.name}: {name} is {dtype}: use a float32, bfloat16 or float16 checkpoint"
            )
    return [Entry(path, name, shape, DTYPES[dtype]) for name, shape, dtype in found]


def _refuse_repeats(path: Path) -> None:
    """Raise ValueError where the header names a tensor twice, which safetensors lets pass."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        json.loads(file.read(size), object_pairs_hook=_no_repeats)


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice} is there twice")
    return found


def pieces(entry: Entry) -> Iterator[tuple[int, Tensor]]:
    """Runs of rows of one tensor, with the number of their first row.

    The file is opened anew for each, so that the pages of those before are given back.
    """
    rows = max(1, PIECE_BYTES // max(1, entry.nbytes // entry.shape[0]))
    for start in range(0, entry.shape[0], rows):
        with safe_open(entry.file, framework="pt") as file:
            yield start, file.get_slice(entry.name)[start : start + rows]


def listed(names: list[str]) -> str:
    """Say a few of the names and how many more there are, with the verb that fits."""
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return shown + (" is" if len(names) == 1 else " are")
