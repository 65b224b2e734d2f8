"""The mask decoder's file: read strictly, and the masks of an answer."""

import numpy as np
import pytest
import torch

from vlmchat.mask_file import MaskError, beside, load_mask_decoder, masks_of
from vlmchat.model.mask_decoder import MaskDecoder
from vlmchat.tasks import Detection

BOX = (0.0, 0.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def decoder():
    torch.manual_seed(5)
    return MaskDecoder().eval()


@pytest.fixture
def arrays(decoder):
    """What the published file holds, with random weights: the encoder's half too."""
    arrays = {name: tensor.numpy() for name, tensor in decoder.state_dict().items()}
    arrays["_vq_vae._embedding"] = arrays.pop("codebook.weight")
    arrays["_vq_vae._ema_w"] = np.zeros((128, 512), dtype=np.float32)
    arrays["encoder.0.weight"] = np.zeros((16, 1, 4, 4), dtype=np.float32)
    return arrays


def save(folder, arrays):
    path = folder / "vae-oid.npz"
    np.savez(path, **arrays)
    return path


def test_every_array_finds_its_place(tmp_path, arrays, decoder):
    loaded = load_mask_decoder(save(tmp_path, arrays))
    assert not loaded.training
    state = loaded.state_dict()
    assert state.keys() == decoder.state_dict().keys()
    for name, tensor in decoder.state_dict().items():
        assert torch.equal(state[name], tensor)


def test_half_precision_is_read_too(tmp_path, arrays):
    halves = {name: array.astype(np.float16) for name, array in arrays.items()}
    loaded = load_mask_decoder(save(tmp_path, halves))
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}


WRONG = [
    (lambda a: a.pop("decoder.4.bias"), "decoder.4.bias is missing"),
    (lambda a: a.update(more=np.zeros(1, np.float32)), "more is unknown"),
    (
        lambda a: a.update({"decoder.12.bias": np.zeros(2, np.float32)}),
        r"decoder.12.bias has the shape \(2,\), not \(1,\)",
    ),
    (lambda a: a.clear(), "codebook.weight is missing, .* and 22 more"),
    (lambda a: a.update({"decoder.12.bias": np.array([1])}), "decoder.12.bias holds no fractions"),
    (lambda a: a.update({"decoder.12.bias": np.array([None])}), "no mask decoder"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_another_archive_is_refused(tmp_path, arrays, change, message):
    change(arrays)
    with pytest.raises(MaskError, match=message):
        load_mask_decoder(save(tmp_path, arrays))


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"no archive", b"\x93NUMPY", b"\x80\x04N."])
def test_another_file_is_refused(tmp_path, data):
    path = tmp_path / "x.npz"
    path.write_bytes(data)
    with pytest.raises(MaskError, match="no mask decoder"):
        load_mask_decoder(path)


def test_a_single_array_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(MaskError, match="no mask decoder"):
        load_mask_decoder(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(MaskError, match="there is no such file"):
        load_mask_decoder(tmp_path / "x.npz")
    with pytest.raises(MaskError, match="no mask decoder"):
        load_mask_decoder(tmp_path)


def test_a_file_beside_the_checkpoint_is_found(tmp_path, arrays):
    assert beside(tmp_path) is None
    path = save(tmp_path, arrays)
    assert beside(tmp_path) == path


def test_masks_go_with_their_detections(decoder):
    first, second = tuple(range(16)), tuple(range(100, 116))
    found = [
        Detection("a", BOX, first),
        Detection("b", BOX),
        Detection("c", BOX, second),
    ]
    masks = masks_of(found, decoder)
    assert [mask is None for mask in masks] == [False, True, False]
    with torch.inference_mode():
        alone = decoder(torch.tensor([second]))[0].numpy()
    np.testing.assert_allclose(masks[2], alone, rtol=1e-5, atol=1e-6)
    assert masks_of(found[1:2], decoder) == [None]
