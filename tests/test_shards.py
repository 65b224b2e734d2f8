"""Damaged files and hostile indexes end in one line that names the file."""

import json
import struct

import pytest
import torch
from safetensors.torch import save_file

from vlmchat.shards import INDEX_NAME, SINGLE_NAME, WeightsError, headers, pieces

HEADER = {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}


def raw_file(header: object, body: bytes = b"\0" * 16) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


DAMAGED = {
    "cut short": raw_file(HEADER, b"\0" * 10),
    "trailing bytes": raw_file(HEADER, b"\0" * 20),
    "empty": b"",
    "no header": b"\xff" * 64,
    "bad JSON": raw_file(b"{"),
    "overlap": raw_file(HEADER | {"b": HEADER["a"]}),
    "twice": raw_file(
        b'{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},'
        b'"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}'
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_named(tmp_path, case):
    (tmp_path / SINGLE_NAME).write_bytes(DAMAGED[case])
    with pytest.raises(WeightsError, match=r"model\.safetensors: damaged .* download the file"):
        list(headers(tmp_path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"model\.safetensors: the file is missing"):
        list(headers(tmp_path))


def write_index(folder, weight_map):
    (folder / INDEX_NAME).write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize(
    "name",
    [
        "../model.safetensors",
        "/etc/model.safetensors",
        "sub/model.safetensors",
        "..\\model.safetensors",
        ".hidden.safetensors",
        "model.bin",
        "",
        7,
    ],
)
def test_an_index_may_not_name_files_elsewhere(tmp_path, name):
    outside = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(2)}, outside)
    folder = tmp_path / "folder"
    folder.mkdir()
    write_index(folder, {"a": name})
    with pytest.raises(WeightsError, match="is no name of a weight file"):
        list(headers(folder))


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "1.safetensors", "b": "2.safetensors"}, r"2\.safetensors: the file is missing"),
        ({"a": "1.safetensors", "b": "1.safetensors"}, "b is named by .* not there"),
        ({"c": "1.safetensors"}, "holds a, which .* places in no file"),
    ],
)
def test_files_and_index_must_agree(tmp_path, weight_map, message):
    save_file({"a": torch.zeros(2)}, tmp_path / "1.safetensors")
    write_index(tmp_path, weight_map)
    with pytest.raises(WeightsError, match=message):
        list(headers(tmp_path))


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"weight_map": 3}', '{"weight_map": {"a":"x","a":"y"}}']
)
def test_an_unreadable_index_is_named(tmp_path, text):
    (tmp_path / INDEX_NAME).write_text(text)
    with pytest.raises(WeightsError, match=r"index\.json: cannot be read"):
        list(headers(tmp_path))


def test_pieces_are_all_the_rows_in_order(tmp_path, monkeypatch):
    tensor = torch.arange(70.0).reshape(10, 7)
    save_file({"a": tensor}, tmp_path / SINGLE_NAME)
    (entry,) = headers(tmp_path)
    monkeypatch.setattr("vlmchat.shards.PIECE_BYTES", 3 * 7 * 4)
    found = list(pieces(entry))
    assert [start for start, _ in found] == [0, 3, 6, 9]
    assert torch.equal(torch.cat([piece for _, piece in found]), tensor)
