"""Where a checkpoint is: a folder, the local hub cache, or the hub itself."""

import errno
import json
import os
import re
from pathlib import Path

from vlmchat import download
from vlmchat.download import Progress
from vlmchat.errors import UserError

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
# What a checkpoint needs, and nothing else that its repository may hold.
WANTED = ("*.json", "*.safetensors", "tokenizer.model")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".npz")
_HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*?)(?:@([\w./-]+))?")


class HubError(UserError):
    """A model path at which there is no checkpoint."""


def resolve(model_path: str | Path, *, progress: Progress | None = None) -> Path:
    """The folder of a checkpoint: a path as it is, or a hub id with an optional `@revision`.

    A hub id is looked up in the local cache first, then fetched; `progress` is told the bytes
    done and in all. Raises HubError.
    """
    folder = Path(os.path.expanduser(model_path))
    if os.path.exists(folder):  # unlike Path.exists, it says no to a name that is too long
        return _checked(folder)
    found = _HUB_ID.fullmatch(str(model_path))
    if found is None or found[1].count("/") != 1:
        raise HubError(
            f"{model_path}: there is no such folder, and it is no hub id: "
            "give a checkpoint folder, or an id such as google/paligemma-3b-mix-224"
        )
    repository, revision = found[1], found[2]
    return _cached(repository, revision) or _fetched(repository, revision, progress)


def _checked(folder: Path) -> Path:
    """`folder`, if it looks like a checkpoint."""
    if not folder.is_dir():
        raise HubError(f"{folder}: a file: give the folder that holds config.json and the weights")
    try:
        names = set(os.listdir(folder))
    except OSError as error:
        raise HubError(f"{folder}: {error.strerror}: check who may read the folder") from error
    has_weights = any(name.endswith(".safetensors") for name in names)
    if not has_weights and any(name.endswith(PICKLES) for name in names):
        raise HubError(
            f"{folder}: only pickled weights, and loading those would run code: "
            "convert them to safetensors with transformers' save_pretrained"
        )
    if "config.json" not in names:
        raise HubError(f"{folder}: no config.json: give the folder of a PaliGemma checkpoint")
    if not has_weights:
        raise HubError(f"{folder}: no *.safetensors in it: give a checkpoint that has them")
    return folder


def _cached(repository: str, revision: str | None) -> Path | None:
    """The snapshot in the local cache, if it is there and whole."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        # With the patterns of the download, or the files that it left out would count as missing.
        found = snapshot_download(
            repository, revision=revision, allow_patterns=list(WANTED), local_files_only=True
        )
    except (OSError, HFValidationError):  # a missing entry is a FileNotFoundError
        return None
    folder = Path(found)
    return folder if _is_whole(folder) else None


def _is_whole(folder: Path) -> bool:
    """Whether a snapshot holds its config, its tokenizer and every file that its index names."""
    if not (folder / "config.json").exists():
        return False
    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model")):
        return False
    index = folder / INDEX_NAME
    if not index.exists():
        return (folder / SINGLE_NAME).exists()
    try:
        files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False  # fetched again, and if it is still so, the loader names it
    return all(isinstance(name, str) and (folder / name).exists() for name in files)


def _fetched(repository: str, revision: str | None, progress: Progress | None) -> Path:
    """Download the snapshot; raises HubError."""
    try:
        folder = download.fetch(repository, revision, list(WANTED), progress)
    except Exception as error:  # the hub, its client, the network and the disk have one each
        raise HubError(f"{repository}: {_reason(error, repository, revision)}") from error
    return _checked(Path(folder))


def _reason(error: Exception, repository: str, revision: str | None) -> str:
    """What is wrong and what to do about it, for each way that a download fails."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):  # before its parent, RepositoryNotFoundError
        return (
            "its licence must be accepted first: do that at "
            f"https://huggingface.co/{repository} and set HF_TOKEN to a token of that account"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"it has no revision {revision or 'main'}: check its branches"
    if isinstance(error, (errors.RepositoryNotFoundError, errors.HFValidationError)):
        return (
            "no such folder here, and no such repository on the hub, or a private one: "
            "check the name, or set HF_TOKEN"
        )
    if isinstance(error, errors.LocalEntryNotFoundError):
        return (
            "no such folder here, not whole in the local cache, and the hub cannot be reached: "
            "check the network (and HF_HUB_OFFLINE), or give a folder"
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full: make room, or set HF_HOME to a folder on another disk"
    first = (str(error).splitlines() or [""])[0] or type(error).__name__
    return f"the download failed ({first}): try again, it goes on where it stopped"
