"""A checkpoint folder becomes a model: every tensor used, every parameter filled, or an error.

Only headers are read at first. Names and shapes are compared with the model that `config.json`
describes, built on the meta device, before anything large is allocated. Then the tensors come in:
on the CPU, in the dtype of the file, as views of the memory-mapped file (no copy at all); otherwise
piece by piece, so that never more than one piece exists twice. Layers that `vlmchat.packing` put in
place take their weights one after another, so that never more than one layer exists twice.
"""

import ctypes
import math
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from vlmchat.config import ModelConfig
from vlmchat.model.compiled import Kernels
from vlmchat.model.paligemma import PaliGemma
from vlmchat.packing import Placed, Quantize, fill, place, settle
from vlmchat.shards import Entry, WeightsError, headers, listed, pieces
from vlmchat.weight_cache import WeightCache

EMBEDDINGS = "text.embed_tokens.weight"
POSITIONS = "vision.embeddings.position_embedding.weight"
HEAD = "lm_head.weight"

Progress = Callable[[int, int], None]  # bytes done, bytes in all


@dataclass(frozen=True)
class Checkpoint:
    """A folder whose tensors fit its config, and nothing read but headers.

    `config` is the effective one: where the file's embedding rows or positions differ from
    `config.json`, the file is right and `notices` say so. `entries` are keyed by the model's names.
    """

    config: ModelConfig
    entries: dict[str, Entry]
    notices: tuple[str, ...]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype the file states, read off its largest table rather than the config."""
        return self.entries[EMBEDDINGS].dtype

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in the files."""
        return sum(entry.nbytes for entry in self.entries.values())


def open_checkpoint(folder: Path, config: ModelConfig) -> Checkpoint:
    """Read the headers in `folder`; WeightsError unless they describe the model of `config`."""
    entries: dict[str, Entry] = {}
    for entry in headers(folder):
        name = model_name(entry.name)
        if name is None:
            continue
        if math.prod(entry.shape) == 0 or not entry.shape:
            raise WeightsError(f"{entry.file.name}: {entry.name} is empty: download it again")
        if name in entries:
            raise WeightsError(
                f"{entry.file.name}: {entry.name} is there twice (also as {entries[name].name}): "
                "download the checkpoint again"
            )
        entries[name] = entry
    entries = _tie_head(entries)
    config, notices = _reconcile(config, {name: entry.shape for name, entry in entries.items()})
    _compare(entries, config)
    return Checkpoint(config, entries, notices)


def load_model(
    checkpoint: Checkpoint,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    *,
    quantize: Quantize = "none",
    cache: WeightCache | None = None,
    kernels: Kernels | None = None,
    fast: bool = True,
) -> PaliGemma:
    """Build the model from the files, in `dtype` (None: the file's) on `device`, ready to run.

    `quantize` keeps the weights of the decoder's linear layers in 8 or 4 bits, found in `cache` if
    they were quantised before. `fast` lets `vlmchat.packing` replace these layers in any case,
    where it gains by it. `kernels` of our own then multiply with them.
    """
    dtype = dtype or checkpoint.dtype
    device = torch.device(device)
    with torch.device("meta"):
        model = PaliGemma(checkpoint.config)
    wanted = fast or quantize != "none"
    placed = place(model, device, dtype, quantize, kernels) if wanted else []
    packed = {name: checkpoint.entries[name] for each in placed for name in each.names}
    kept = {n: e for n, e in checkpoint.entries.items() if n not in packed or n == EMBEDDINGS}
    # A table beside a fast head is only looked up in, which does not need it in this dtype.
    as_it_is = {n for n, e in kept.items() if e.dtype == dtype or n in packed}
    in_place = {n: e for n, e in kept.items() if device.type == "cpu" and n in as_it_is}
    moved = {n: e for n, e in kept.items() if n not in in_place}
    state = {name: torch.empty(e.shape, dtype=dtype, device=device) for name, e in moved.items()}
    state |= dict(_mapped(in_place))
    work = sum(entry.nbytes for entry in (*moved.values(), *packed.values()))
    done = 0
    for step in chain(_fill(state, moved), _pack(placed, packed, dtype, device, cache)):
        done += step
        if progress is not None:
            progress(done, work)
    model.load_state_dict(state, strict=True, assign=True)
    model.eval().requires_grad_(False)
    if fast:
        settle(model)
    if placed:
        _give_back_memory()
    return model


def _give_back_memory() -> None:
    """Hand back to the system what the allocator holds of weights that were packed in passing.

    It is up to half a gigabyte with glibc; other C libraries have no such call.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def model_name(name: str) -> str | None:
    """The model's name for a tensor of a checkpoint; None for one that is not a parameter.

    Covers the published names, those that newer transformers write with `state_dict()`, and the
    outer prefix of the pi0 family. An unknown name comes back as it is, to be reported.
    """
    name = name.removeprefix("paligemma_with_expert.paligemma.")
    name = re.sub(r"^model\.(?=language_model\.|vision_tower\.|multi_modal_projector\.)", "", name)
    if name.endswith(("position_ids", "rotary_emb.inv_freq", "embed_scale")):
        return None
    if name in ("lm_head.weight", "language_model.lm_head.weight"):
        return HEAD
    for prefix, part in _PARTS:
        if name.startswith(prefix):
            return part + name.removeprefix(prefix)
    return name


def published_name(name: str) -> str:
    """The name that a parameter of the model has in the published checkpoints."""
    for prefix, part in _PARTS:
        if name.startswith(part):
            return prefix + name.removeprefix(part)
    return name


_PARTS = (  # of the model's parts, the first prefix is the published one
    ("language_model.model.", "text."),
    ("language_model.", "text."),
    ("vision_tower.vision_model.", "vision."),
    ("vision_tower.", "vision."),
    ("multi_modal_projector.", "projector."),
)


def _tie_head(entries: dict[str, Entry]) -> dict[str, Entry]:
    """Drop a stored output head: it must equal the embedding table, or stand in for it."""
    entries = dict(entries)
    head = entries.pop(HEAD, None)
    if head is None:
        return entries
    table = entries.setdefault(EMBEDDINGS, head)
    if table.shape != head.shape or not _equal(table, head):
        raise WeightsError(
            f"{head.file.name}: {head.name} differs from the embedding table, and a PaliGemma's "
            "head is tied to it: use an unmodified checkpoint"
        )
    return entries


def _equal(one: Entry, other: Entry) -> bool:
    if one is other:
        return True
    pairs = zip(pieces(one), pieces(other), strict=True)
    return all(torch.equal(a, b) for (_, a), (_, b) in pairs)


def _reconcile(
    config: ModelConfig, shapes: dict[str, tuple[int, ...]]
) -> tuple[ModelConfig, tuple[str, ...]]:
    """Take table rows and image size from the tensors where `config.json` says otherwise."""
    notices = []
    rows = shapes.get(EMBEDDINGS, (config.text.vocab_size,))[0]
    if rows != config.text.vocab_size:
        notices.append(f"config.json says {config.text.vocab_size} token rows, the file has {rows}")
        config = config.with_rows(rows)
    patches = shapes.get(POSITIONS, (config.vision.num_patches,))[0]
    grid = math.isqrt(patches)
    if patches != config.vision.num_patches and grid * grid == patches:
        pixels = grid * config.vision.patch_size
        notices.append(
            f"config.json says images of {config.vision.image_size} pixels, "
            f"the file has positions for {pixels}"
        )
        config = config.with_image_size(pixels)
    return config, tuple(notices)


def _compare(entries: dict[str, Entry], config: ModelConfig) -> None:
    """Raise WeightsError unless `entries` are all the parameters of the model, and no more."""
    with torch.device("meta"):
        wanted = {name: tuple(p.shape) for name, p in PaliGemma(config).state_dict().items()}
    if extra := [entry.name for name, entry in entries.items() if name not in wanted]:
        raise WeightsError(f"{listed(extra)} not part of this model: use a PaliGemma checkpoint")
    if missing := [published_name(name) for name in wanted if name not in entries]:
        raise WeightsError(f"{listed(missing)} missing: download the checkpoint again")
    for name, shape in wanted.items():
        entry = entries[name]
        if entry.shape != shape:
            raise WeightsError(
                f"{entry.file.name}: {entry.name} is {list(entry.shape)} where config.json asks "
                f"for {list(shape)}: the two do not belong together"
            )


def _mapped(entries: dict[str, Entry]) -> Iterator[tuple[str, Tensor]]:
    """Tensors as views of their memory-mapped files; pages come in when they are first used."""
    for file in sorted({entry.file for entry in entries.values()}):
        with safe_open(file, framework="pt") as opened:
            for name, entry in entries.items():
                if entry.file == file:
                    yield name, opened.get_tensor(entry.name)


def _fill(state: dict[str, Tensor], entries: dict[str, Entry]) -> Iterator[int]:
    """Copy each entry into its tensor of `state`, piece by piece; yield the bytes of each."""
    for name, entry in entries.items():
        for start, piece in pieces(entry):
            target = state[name]
            target[start : start + len(piece)] = piece
            yield piece.nbytes


def _pack(
    placed: list[Placed],
    entries: dict[str, Entry],
    dtype: torch.dtype,
    device: torch.device,
    cache: WeightCache | None,
) -> Iterator[int]:
    """Give each placed layer its weights; yield the bytes of each.

    The file is opened anew for each, so that the pages of those before are given back. Those that
    are stacked are so in one room, which the system need not clear for each.
    """
    stacks = [sum(entries[name].nbytes for name in each.names) for each in placed if each.stacked]
    room = torch.empty(max(stacks, default=0), dtype=torch.uint8)
    for each in placed:
        parts = [entries[name] for name in each.names]
        fill(each, partial(_stacked, parts, room), device, dtype, cache)
        yield sum(entry.nbytes for entry in parts)


def _stacked(entries: list[Entry], room: Tensor) -> Tensor:
    """Weights (N, K) below one another, in `room`; one alone is a view of its mapped file."""
    tensors = [tensor for entry in entries for _, tensor in _mapped({entry.name: entry})]
    if len(tensors) == 1:
        return tensors[0]
    if len({tensor.dtype for tensor in tensors}) > 1:
        return torch.cat(tensors)
    whole = room[: sum(tensor.nbytes for tensor in tensors)].view(tensors[0].dtype)
    return torch.cat(tensors, out=whole.view(-1, tensors[0].shape[1]))
