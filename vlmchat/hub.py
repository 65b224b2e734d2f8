"""Where a checkpoint is: a folder, the local hub cache, or the hub itself."""

import json
import re
from pathlib import Path

from vlmchat.errors import UserError
from vlmchat.shards import INDEX_NAME, SINGLE_NAME

# What a checkpoint needs, and nothing else that its repository may hold.
WANTED = ("*.json", "*.safetensors", "tokenizer.model")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".npz")
_HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*?)(?:@([\w./-]+))?")


class HubError(UserError):
    """A model path at which there is no checkpoint."""


def resolve(model_path: str | Path, *, progress: bool = False) -> Path:
    """The folder of a checkpoint: a path as it is, or a hub id with an optional `@revision`.

    A hub id is looked up in the local cache first, then fetched, with bars where `progress` asks
    for them. Raises HubError.
    """
    folder = Path(model_path).expanduser()
    if folder.exists():
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
    names = {path.name for path in folder.iterdir()}
    has_weights = any(name.endswith(".safetensors") for name in names)
    if not has_weights and any(name.endswith(PICKLES) for name in names):
        raise HubError(
            f"{folder}: only pickled weights, and loading those would run code: "
            "convert them to safetensors with transformers' save_pretrained"
        )
    if "config.json" not in names:
        raise HubError(f"{folder}: no config.json: give the folder of a PaliGemma checkpoint")
    return folder


def _cached(repository: str, revision: str | None) -> Path | None:
    """The snapshot in the local cache, if it is there and whole."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
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


def _fetched(repository: str, revision: str | None, progress: bool) -> Path:
    """Download the snapshot; every way that this fails has a line of its own."""
    from huggingface_hub import errors, snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

    (enable_progress_bars if progress else disable_progress_bars)()
    try:
        folder = snapshot_download(repository, revision=revision, allow_patterns=list(WANTED))
    except errors.GatedRepoError as error:
        raise HubError(
            f"{repository}: its licence must be accepted first: do that at "
            f"https://huggingface.co/{repository} and set HF_TOKEN to a token of that account"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{repository}: no revision {revision}: check its branches") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise HubError(
            f"{repository}: no such repository on the hub, or a private one: "
            "check the id, or set HF_TOKEN"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise HubError(
            f"{repository}: not in the local cache, and the hub cannot be reached: "
            "check the network (and HF_HUB_OFFLINE), or give a folder"
        ) from error
    except (OSError, errors.HfHubHTTPError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise HubError(
            f"{repository}: the download failed ({reason}): try again, it goes on where it stopped"
        ) from error
    return Path(folder)
