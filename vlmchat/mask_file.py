"""The mask decoder's file, and the masks of an answer.

The decoder is not part of any checkpoint. big_vision publishes it as `vae-oid.npz`, a NumPy
archive, which is read here without running anything that it holds.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from vlmchat.errors import UserError
from vlmchat.model.mask_decoder import MaskDecoder

if TYPE_CHECKING:
    from vlmchat.overlay import Mask
    from vlmchat.tasks import Detection

FILE_NAME = "vae-oid.npz"
MAX_FILE_BYTES = 100_000_000
CODEBOOK = "_vq_vae._embedding"
# The half that turns masks into codes, and what only its training needed.
NOT_NEEDED = ("encoder.", "_vq_vae._ema", "_vq_vae._cluster")


class MaskError(UserError):
    """A mask decoder's file that is missing, damaged, or something else."""


def beside(folder: Path) -> Path | None:
    """The decoder's file in a checkpoint's folder, where there is one."""
    path = folder / FILE_NAME
    return path if path.is_file() else None


def load_mask_decoder(path: Path) -> MaskDecoder:
    """Read the decoder, strictly: all of its arrays, in their shapes, and none unknown.

    Raises MaskError.
    """
    arrays = _read(path)
    with torch.device("meta"):
        decoder = MaskDecoder()
    wanted = {name: tuple(tensor.shape) for name, tensor in decoder.state_dict().items()}
    given = {"codebook.weight" if key == CODEBOOK else key: arrays[key] for key in arrays}
    _compare(path, wanted, {name: array.shape for name, array in given.items()})
    state = {name: torch.from_numpy(array.astype(np.float32)) for name, array in given.items()}
    decoder.load_state_dict(state, strict=True, assign=True)
    return decoder.eval()


def _read(path: Path) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.floating]]]:
    """The arrays that the decoder may need. Pickled objects, which could run code, are refused."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError("it is larger than 100 MB")
        with np.load(BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            names = [name for name in archive.files if not name.startswith(NOT_NEEDED)]
            arrays = {name: archive[name] for name in names}
    except FileNotFoundError:
        raise MaskError(f"{path}: there is no such file: check --mask-decoder") from None
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise MaskError(f"{path}: no mask decoder ({error}): use {FILE_NAME}") from error
    odd = [name for name, array in arrays.items() if array.dtype.kind != "f"]
    if odd:
        raise MaskError(f"{path}: {odd[0]} holds no fractions: use {FILE_NAME} as published")
    return arrays


def _compare(
    path: Path, wanted: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise MaskError that names the first arrays which are missing, unknown or misshapen."""
    problems = [f"{name} is missing" for name in wanted if name not in given]
    problems += [f"{name} is unknown" for name in given if name not in wanted]
    problems += [
        f"{name} has the shape {given[name]}, not {shape}"
        for name, shape in wanted.items()
        if name in given and given[name] != shape
    ]
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise MaskError(f"{path}: {', '.join(problems[:3])}{more}: use {FILE_NAME} as published")


@torch.inference_mode()
def masks_of(detections: Sequence[Detection], decoder: MaskDecoder) -> list[Mask | None]:
    """The mask (64, 64) within each detection's box, above 0 inside; None where it has no codes."""
    codes = [found.mask_codes for found in detections if found.mask_codes is not None]
    if not codes:
        return [None] * len(detections)
    masks = iter(decoder(torch.tensor(codes)).numpy())
    return [None if found.mask_codes is None else next(masks) for found in detections]
