"""Kept weights are those that were made, and whatever is not whole is made again."""

import os
import time

import pytest
import torch

from tests.reference import reference_model, tiny_config
from tests.test_linear import drawn
from tests.tiny import save_tokenizer
from vlmchat import loading
from vlmchat import weight_cache as module
from vlmchat.quantize import quantize
from vlmchat.weight_cache import VARIABLE, WeightCache, weight_cache

NAME = "text.layers.0.mlp.up_proj.weight"
WEIGHT = drawn(64, 128)


class Maker:
    """Quantises when asked, and counts how often it was."""

    def __init__(self, bits):
        self.bits = bits
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return quantize(WEIGHT, self.bits)


def same(one, other):
    return torch.equal(one.q, other.q) and torch.equal(one.scale, other.scale)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_second_start_finds_what_the_first_made(tmp_path, bits):
    first, second = Maker(bits), Maker(bits)
    made = WeightCache(tmp_path).get(NAME, (64, 128), bits, first)
    kept = WeightCache(tmp_path).get(NAME, (64, 128), bits, second)
    assert (first.calls, second.calls) == (1, 0)
    assert same(made, kept)
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]


def damage_header(path):
    path.write_bytes(b"\xff" * 100 + path.read_bytes()[100:])


def cut(path):
    path.write_bytes(path.read_bytes()[:-50])


def empty(path):
    path.write_bytes(b"")


def other_shape(path):
    made = quantize(drawn(32, 128), 8)
    module._write(path, made)


def other_tensors(path):
    module.save_file({"q": torch.zeros(3)}, path)


def a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("harm", [damage_header, cut, empty, other_shape, other_tensors, os.unlink])
def test_what_is_damaged_is_made_and_kept_again(tmp_path, harm):
    made = WeightCache(tmp_path).get(NAME, (64, 128), 8, Maker(8))
    harm(next(tmp_path.iterdir()))
    second, third = Maker(8), Maker(8)
    assert same(WeightCache(tmp_path).get(NAME, (64, 128), 8, second), made)
    assert same(WeightCache(tmp_path).get(NAME, (64, 128), 8, third), made)
    assert (second.calls, third.calls) == (1, 0)


def test_a_write_that_ends_halfway_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        WeightCache(tmp_path).get(NAME, (64, 128), 8, Maker(8))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told_once_and_costs_nothing(tmp_path):
    (tmp_path / "file").touch()
    cache, make = WeightCache(tmp_path / "file" / "key"), Maker(8)
    made = [cache.get(NAME, (64, 128), 8, make) for _ in range(2)]
    assert same(made[0], quantize(WEIGHT, 8))
    assert make.calls == 2
    assert cache.problem is not None
    assert "\n" not in cache.problem
    assert "cannot be written" in cache.problem
    assert VARIABLE in cache.problem


def test_a_folder_in_the_place_of_a_file_is_told(tmp_path):
    WeightCache(tmp_path).get(NAME, (64, 128), 8, Maker(8))
    a_folder(next(tmp_path.iterdir()))
    cache = WeightCache(tmp_path)
    assert same(cache.get(NAME, (64, 128), 8, Maker(8)), quantize(WEIGHT, 8))
    assert cache.problem is not None


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "model.safetensors"
    module.save_file({"w": torch.arange(100_000)}, path)
    return path


def test_the_key_is_the_content(tmp_path, weights, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "kept"))
    cache = weight_cache([weights])
    assert cache.folder.parent == tmp_path / "kept"
    assert weight_cache([weights, weights]).folder == cache.folder
    stat = weights.stat()
    changed = bytearray(weights.read_bytes())
    changed[len(changed) // 2] ^= 1
    weights.write_bytes(changed)
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert weight_cache([weights]).folder != cache.folder


def test_a_later_time_is_another_key(tmp_path, weights, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    before = weight_cache([weights]).folder
    os.utime(weights, ns=(1, 1))
    assert weight_cache([weights]).folder != before


def test_what_nobody_has_used_for_a_month_is_removed(tmp_path, weights, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "kept"))
    mine = weight_cache([weights]).folder
    unused, used, other = (mine.parent / name for name in ("0" * 32, "1" * 32, "other"))
    long_ago = time.time() - module.UNUSED_S - 60
    for folder in (mine, unused, used, other):
        folder.mkdir(parents=True)
        (folder / "a.int8.safetensors").touch()
    for folder in (mine, unused, other):
        os.utime(folder, (long_ago, long_ago))
    assert weight_cache([weights]).folder == mine
    assert sorted(mine.parent.iterdir()) == sorted([mine, used, other])
    assert time.time() - mine.stat().st_mtime < 60


def test_the_variable_empty_keeps_nothing(weights, monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    assert weight_cache([weights]) is None


def test_without_the_variable_it_is_the_cache_folder_of_the_user(weights, monkeypatch, tmp_path):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(module, "_default_folder", lambda: tmp_path / "user")
    assert weight_cache([weights]).folder.parent == tmp_path / "user"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A whole tiny checkpoint folder, of those that are large enough to be kept."""
    folder = tmp_path / "model"
    folder.mkdir()
    image_id = save_tokenizer(folder).token_to_id("<image>")
    reference_model(tiny_config(rows=image_id + 8, image_id=image_id)).save_pretrained(folder)
    monkeypatch.setattr(loading, "KEPT_ABOVE", 0)
    return folder


def test_load_keeps_what_it_quantised(folder, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "kept"))
    session = loading.load(folder, quantize="int8")
    assert (session.engine.quantize, session.notices) == ("int8", ())
    assert len(list((tmp_path / "kept").rglob("*.int8.safetensors"))) == 4 * 3 + 1
    loading.load(folder, quantize="none")
    assert len(list((tmp_path / "kept").rglob("*"))) == 4 * 3 + 2


def test_load_says_in_one_notice_that_it_cannot_keep_them(folder, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file"))
    session = loading.load(folder, quantize="int8")
    assert len(session.notices) == 1
    assert "quantised weights are not kept" in session.notices[0]
    assert "\n" not in session.notices[0]


def test_small_checkpoints_are_not_kept(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "KEPT_ABOVE", 10**9)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "kept"))
    loading.load(folder, quantize="int8")
    assert not (tmp_path / "kept").exists()
