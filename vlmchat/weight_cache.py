"""Quantised weights kept in a folder, so that only the first start has to make them.

One file a layer, under a key that tells the checkpoint's content. A file is written beside its name
and then renamed, so that it is whole or not there; what is missing or damaged is made again. What
no start has used for a month is removed.
"""

import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vlmchat.quantize import Quantized, group_size

VARIABLE = "VLMCHAT_WEIGHT_CACHE"
FORMAT = "3"  # changes with how weights are quantised
SAMPLES, SAMPLE_BYTES = 64, 4096  # of each file's content
KEY = re.compile("[0-9a-f]{32}")
UNUSED_S = 30 * 24 * 3600  # seconds after their last use until kept weights are removed


class WeightCache:
    """The kept weights of one checkpoint. `problem` says why they could not be kept, if so."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problem: str | None = None

    def get(
        self, name: str, shape: tuple[int, int], bits: int, make: Callable[[], Quantized]
    ) -> Quantized:
        """The weights under `name`, (N, K) in `bits` bits: kept, or made now and then kept."""
        path = self.folder / f"{name}.int{bits}.safetensors"
        kept = _read(path, shape, bits)
        if kept is not None:
            return kept
        made = make()
        if self.problem is None:
            try:
                _write(path, made)
            except OSError as error:
                why = error.strerror or error
                self.problem = (
                    f"quantised weights are not kept, {self.folder} cannot be written ({why}): "
                    f"the next start makes them again; {VARIABLE} names another folder"
                )
        return made


def weight_cache(files: Iterable[Path]) -> WeightCache | None:
    """The cache for the checkpoint in these files; None where VLMCHAT_WEIGHT_CACHE is empty."""
    named = os.environ.get(VARIABLE)
    if named == "":
        return None
    root = Path(named) if named else _default_folder()
    cache = WeightCache(root / _key(files))
    with suppress(OSError):  # there is nothing yet, or nothing that we may change
        os.utime(cache.folder)
    _remove_unused(root)
    return cache


def _remove_unused(root: Path) -> None:
    """Remove what was kept of checkpoints that nobody has loaded for UNUSED_S; nothing else."""
    with suppress(OSError):  # to tidy up is no reason to fail
        for folder in root.iterdir():
            if KEY.fullmatch(folder.name) and time.time() - folder.stat().st_mtime > UNUSED_S:
                shutil.rmtree(folder)


def _default_folder() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("vlmchat", appauthor=False) / "quantized"


def _key(files: Iterable[Path]) -> str:
    """What tells one checkpoint from another: headers, sizes, times and samples of the content."""
    digest = hashlib.sha256(FORMAT.encode())
    for path in sorted(set(files)):
        stat = path.stat()
        digest.update(f"\0{path.name}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
        with path.open("rb") as file:
            digest.update(file.read(int.from_bytes(file.read(8), "little")))  # the header
            for sample in range(SAMPLES):
                file.seek(stat.st_size * sample // SAMPLES)
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:32]  # as KEY says


def _read(path: Path, shape: tuple[int, int], bits: int) -> Quantized | None:
    """Weights of that shape, as views of the file; None where it is not there or not whole."""
    try:
        with safe_open(path, framework="pt") as file:
            quantized = Quantized(file.get_tensor("q"), file.get_tensor("scale"))
    except (OSError, SafetensorError):
        return None
    return quantized if _form(quantized) == _expected(shape, bits) else None


def _form(quantized: Quantized) -> tuple[object, ...]:
    q, scale = quantized.q, quantized.scale
    return (tuple(q.shape), q.dtype, tuple(scale.shape), scale.dtype)


def _expected(shape: tuple[int, int], bits: int) -> tuple[object, ...]:
    outputs, inputs = shape
    if bits == 8:
        return ((outputs, inputs), torch.int8, (outputs, 1), torch.float32)
    groups = inputs // group_size(inputs)
    return ((outputs, inputs // 2), torch.uint8, (outputs, groups), torch.bfloat16)


def _write(path: Path, quantized: Quantized) -> None:
    """Write beside `path`, have it on the disk, then give it its name; raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        os.close(handle)
        tensors = {"q": quantized.q.cpu(), "scale": quantized.scale.cpu()}
        try:
            save_file(tensors, temporary)
        except SafetensorError as error:  # how it reports a full disk
            raise OSError(str(error)) from error
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
