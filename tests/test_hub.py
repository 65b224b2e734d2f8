"""Where checkpoints are found: folders, a hub cache made by hand, a hub that fails in each way."""

import errno
import json
import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants, errors
from huggingface_hub.utils.tqdm import are_progress_bars_disabled

from vlmchat import download
from vlmchat.hub import HubError, resolve

REPOSITORY = "owner/tiny-model"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = ("config.json", "tokenizer.json", "model.safetensors")
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty hub cache, and no way to the hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def content(name: str) -> str:
    if name == INDEX:
        return json.dumps({"weight_map": dict(zip("ab", SHARDS, strict=True))})
    return "{}"


def fill(cache: Path, names, revision: str = "main", listed=None) -> Path:
    """Lay out a snapshot as the hub's library does: links to blobs, a ref, perhaps a listing."""
    home = cache / ("models--" + REPOSITORY.replace("/", "--"))
    snapshot = home / "snapshots" / COMMIT
    for folder in (home / "blobs", home / "refs", snapshot):
        folder.mkdir(parents=True, exist_ok=True)
    (home / "refs" / revision).write_text(COMMIT)
    for name in names:
        (home / "blobs" / name).write_text(content(name))
        (snapshot / name).symlink_to(os.path.join("..", "..", "blobs", name))
    if listed:
        (home / "trees").mkdir()
        files = {name: {"size": 2, "blob_id": "0"} for name in listed}
        tree = {"format_version": 1, "files": files}
        (home / "trees" / f"{COMMIT}.json").write_text(json.dumps(tree))
    return snapshot


@pytest.fixture
def downloads(cache, monkeypatch):
    """Calls of `snapshot_download` that would use the network; each raises or returns `outcome`."""
    whole = huggingface_hub.snapshot_download
    calls = SimpleNamespace(made=[], outcome=None, bars=[])

    def download(repository, **options):
        if options.get("local_files_only"):
            return whole(repository, **options)
        calls.made.append((repository, options))
        calls.bars.append(not are_progress_bars_disabled())
        if isinstance(calls.outcome, Exception):
            raise calls.outcome
        return str(calls.outcome)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return calls


def checkpoint(folder: Path, names=FILES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(content(name))
    return folder


def test_a_folder_is_itself(tmp_path, monkeypatch):
    folder = checkpoint(tmp_path / "my model")
    assert resolve(folder) == folder
    assert resolve(str(folder)) == folder
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/my model") == folder


def test_a_folder_comes_before_a_hub_id_of_that_name(tmp_path, monkeypatch, downloads):
    checkpoint(tmp_path / REPOSITORY)
    monkeypatch.chdir(tmp_path)
    assert resolve(REPOSITORY) == Path(REPOSITORY)
    assert downloads.made == []


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "no config.json"),
        (("notes.txt",), "no config.json"),
        (("config.json", "tokenizer.json"), r"no \*\.safetensors"),
        (("config.json", "pytorch_model.bin"), "only pickled weights.*safetensors"),
        (("paligemma.npz",), "only pickled weights"),
        (("config.json", "model.pt"), "only pickled weights"),
    ],
)
def test_a_folder_that_is_no_checkpoint(names, message, tmp_path):
    with pytest.raises(HubError, match=message) as caught:
        resolve(checkpoint(tmp_path / "folder", names))
    assert str(caught.value).startswith(f"{tmp_path / 'folder'}: ")
    assert "\n" not in str(caught.value)


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("os.listdir", refuse)
    with pytest.raises(HubError, match="Permission denied: check who may read the folder"):
        resolve(tmp_path)


def test_safetensors_beside_pickles_are_fine(tmp_path):
    folder = checkpoint(tmp_path / "both", (*FILES, "pytorch_model.bin"))
    assert resolve(folder) == folder


def test_a_file_is_no_folder(tmp_path):
    checkpoint(tmp_path)
    with pytest.raises(HubError, match=r"a file: give the folder"):
        resolve(tmp_path / "config.json")


@pytest.mark.parametrize(
    "path",
    [
        *("nowhere", "/no/such/folder", "./owner/name", "../a/b", "a/b/c", "a//b", "/", "a/b@"),
        *("~nobody-of-that-name/model", "\u00e4/\u00f6 \u00fc", "x" * 5000, "a\0b", "owner/na me"),
    ],
)
def test_what_is_neither_a_folder_nor_a_hub_id(path, downloads):
    with pytest.raises(HubError, match=r"no such folder|no config.json"):
        resolve(path)
    assert downloads.made == []


@pytest.mark.parametrize("names", [FILES, (*FILES[:2], INDEX, *SHARDS)], ids=["single", "shards"])
def test_a_whole_snapshot_in_the_cache_needs_no_network(names, cache, downloads):
    snapshot = fill(cache, names)
    assert resolve(REPOSITORY) == snapshot
    assert downloads.made == []


def test_files_that_the_download_leaves_out_are_not_missed(cache, downloads):
    """The library keeps a listing of the repository, and compares the snapshot with it."""
    snapshot = fill(cache, FILES, listed=(*FILES, "README.md", ".gitattributes", "flax.msgpack"))
    assert resolve(REPOSITORY) == snapshot
    assert downloads.made == []


def test_a_revision_is_looked_up_by_its_name(cache, downloads):
    snapshot = fill(cache, FILES, revision="bfloat16")
    assert resolve(f"{REPOSITORY}@bfloat16") == snapshot
    assert downloads.made == []
    downloads.outcome = checkpoint(cache / "fetched")
    assert resolve(f"{REPOSITORY}@float16") == cache / "fetched"
    assert resolve(REPOSITORY) == cache / "fetched"
    assert [options["revision"] for _, options in downloads.made] == ["float16", None]


@pytest.mark.parametrize(
    "names",
    [
        FILES[:2],
        FILES[1:],
        ("config.json", "model.safetensors"),
        (*FILES[:2], INDEX, SHARDS[0]),
        (*FILES[:2], SHARDS[0], SHARDS[1]),
    ],
    ids=["no weights", "no config", "no tokenizer", "a shard short", "no index"],
)
def test_part_of_a_snapshot_is_completed(names, cache, downloads):
    fill(cache, names)
    downloads.outcome = checkpoint(cache / "fetched")
    assert resolve(REPOSITORY) == cache / "fetched"
    assert [name for name, _ in downloads.made] == [REPOSITORY]


def test_a_link_to_a_blob_that_is_gone_does_not_count(cache, downloads):
    snapshot = fill(cache, FILES)
    (snapshot / "model.safetensors").resolve().unlink()
    downloads.outcome = checkpoint(cache / "fetched")
    assert resolve(REPOSITORY) == cache / "fetched"


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 7}}'])
def test_a_damaged_index_in_the_cache_is_fetched_again(text, cache, downloads):
    snapshot = fill(cache, (*FILES, INDEX))
    (snapshot / INDEX).resolve().write_text(text)
    downloads.outcome = checkpoint(cache / "fetched")
    assert resolve(REPOSITORY) == cache / "fetched"


def test_only_what_a_checkpoint_needs_is_fetched(cache, downloads):
    downloads.outcome = checkpoint(cache / "fetched")
    resolve(REPOSITORY)
    ((_, options),) = downloads.made
    wanted = {"*.json", "*.safetensors", "tokenizer.model"}
    assert set(options["allow_patterns"]) == wanted
    assert "token" not in options  # the library's own: HF_TOKEN, or a login


def test_the_library_draws_no_bars_and_is_afterwards_as_before(cache, downloads):
    downloads.outcome = checkpoint(cache / "fetched")
    before = are_progress_bars_disabled()
    resolve(REPOSITORY)
    assert downloads.bars == [False]
    assert are_progress_bars_disabled() == before


def test_progress_is_told_the_bytes_of_whichever_bar_is_ahead(cache, downloads, capsys):
    downloads.outcome = checkpoint(cache / "fetched")
    told = []
    resolve(REPOSITORY, progress=lambda *bytes: told.append(bytes))
    ((_, options),) = downloads.made
    bar = options["tqdm_class"]
    with bar(unit="B", total=0) as one, bar(unit="B", total=0) as other, bar(total=3) as files:
        one.update(1)
        one.total = other.total = 10
        one.update(5)
        other.update(4)
        files.update(3)
        other.update(7)
    assert told == [(6, 10), (6, 10), (10, 10)]
    assert capsys.readouterr().err == ""


def http(kind: type[Exception], message: str = "Client Error\nmore lines") -> Exception:
    return kind(message, response=SimpleNamespace(headers={}, request=None, status_code=403))


class TransportError(Exception):
    """The hub's HTTP client raises errors of its own, which are no OSError."""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            http(errors.GatedRepoError),
            r"accepted.*https://huggingface.co/owner/tiny-model.*HF_TOKEN",
        ),
        (http(errors.RepositoryNotFoundError), r"no such repository.*HF_TOKEN"),
        (http(errors.RevisionNotFoundError), r"no revision main: check its branches"),
        (http(errors.DisabledRepoError), r"download failed \(Client Error\)"),
        (http(errors.HfHubHTTPError, ""), r"download failed \(HfHubHTTPError\)"),
        (errors.LocalEntryNotFoundError("x"), r"cannot be reached: check the network"),
        (errors.HFValidationError("x"), r"no such repository"),
        (OSError(errno.ENOSPC, "No space left on device"), r"disk is full: make room"),
        (PermissionError(errno.EACCES, "Permission denied"), r"download failed.*Permission denied"),
        (ConnectionError("reset by peer"), r"download failed \(reset by peer\): try again"),
        (TransportError("The read operation timed out"), r"timed out\): try again"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_each_way_that_a_download_fails_has_one_line(error, message, downloads):
    downloads.outcome = error
    with pytest.raises(HubError, match=message) as caught:
        resolve(REPOSITORY)
    assert str(caught.value).startswith(f"{REPOSITORY}: ")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error


def test_ctrl_c_ends_a_download_that_still_runs(cache, monkeypatch):
    begun, go = threading.Event(), threading.Event()

    def fetch(*_, local_files_only=False, **__):
        if local_files_only:
            raise errors.LocalEntryNotFoundError("not there")
        begun.set()
        assert go.wait(30)
        return "too late"

    def press():
        assert begun.wait(30)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    presses = threading.Thread(target=press)
    presses.start()
    with pytest.raises(KeyboardInterrupt):
        resolve(REPOSITORY)
    presses.join()
    assert download.is_running()
    assert not are_progress_bars_disabled()
    go.set()
    for thread in threading.enumerate():
        if thread.name == download.THREAD:
            thread.join(30)
    assert not download.is_running()


def test_without_network_the_library_itself_says_so(cache):
    with pytest.raises(HubError, match=r"cannot be reached.*HF_HUB_OFFLINE"):
        resolve(REPOSITORY)


def test_a_revision_that_climbs_out_of_the_cache(cache):
    fill(cache, FILES)
    with pytest.raises(HubError, match=r"owner/tiny-model: "):
        resolve(f"{REPOSITORY}@../../..")


def test_a_repository_that_has_pickles_only(cache, downloads):
    downloads.outcome = checkpoint(cache / "fetched", ("config.json", "tokenizer.json"))
    with pytest.raises(HubError, match=r"no \*\.safetensors"):
        resolve(REPOSITORY)
