"""The mask decoder against convolutions written out as sums over pixels."""

import numpy as np
import pytest
import torch

from vlmchat.model.mask_decoder import MaskDecoder


def convolved(x, weight, bias, padding):
    """x (C, H, W) by weight (O, C, k, k): each output pixel sums its neighbourhood."""
    side = weight.shape[2]
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    height, width = (padded.shape[axis] - side + 1 for axis in (1, 2))
    out = np.empty((len(weight), height, width))
    for row in range(height):
        for column in range(width):
            seen = padded[:, row : row + side, column : column + side]
            out[:, row, column] = np.tensordot(weight, seen, axes=3) + bias
    return out


def transposed(x, weight, bias):
    """x (C, H, W) by weight (C, O, 4, 4), stride 2: each input pixel adds a stamp, edges cut."""
    _, height, width = x.shape
    out = np.zeros((weight.shape[1], 2 * height + 2, 2 * width + 2))
    for row in range(height):
        for column in range(width):
            stamp = np.tensordot(x[:, row, column], weight, axes=1)
            out[:, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4] += stamp
    return out[:, 1:-1, 1:-1] + bias[:, None, None]


def decoded(codes, book, weights):
    """The whole decoder for one mask, from a dictionary of float64 arrays."""

    def layer(name):
        return weights[f"decoder.{name}.weight"], weights[f"decoder.{name}.bias"]

    x = np.empty((512, 4, 4))
    for place, code in enumerate(codes):
        x[:, place // 4, place % 4] = book[code]
    x = np.maximum(convolved(x, *layer("0"), padding=0), 0)
    for block in ("2", "3"):
        inner = np.maximum(convolved(x, *layer(f"{block}.net.0"), padding=1), 0)
        inner = np.maximum(convolved(inner, *layer(f"{block}.net.2"), padding=1), 0)
        x = x + convolved(inner, *layer(f"{block}.net.4"), padding=0)
    for name in ("4", "6", "8", "10"):
        x = np.maximum(transposed(x, *layer(name)), 0)
    return convolved(x, *layer("12"), padding=0)[0]


@pytest.fixture(scope="module")
def decoder():
    torch.manual_seed(5)
    return MaskDecoder().eval()


@torch.inference_mode()
def test_it_equals_sums_over_pixels(decoder):
    state = {name: tensor.numpy().astype(float) for name, tensor in decoder.state_dict().items()}
    codes = torch.randint(0, 128, (2, 16), generator=torch.Generator().manual_seed(1))
    masks = decoder(codes).numpy()
    assert masks.shape == (2, 64, 64)
    for row, mask in zip(codes.tolist(), masks, strict=True):
        expected = decoded(row, state["codebook.weight"], state)
        np.testing.assert_allclose(mask, expected, rtol=1e-4, atol=1e-5)


def test_its_tensors_have_the_names_of_the_published_file(decoder):
    places = ["0", "2.net.0", "2.net.2", "2.net.4", "3.net.0", "3.net.2", "3.net.4"]
    places += ["4", "6", "8", "10", "12"]
    names = {f"decoder.{place}.{kind}" for place in places for kind in ("weight", "bias")}
    assert set(decoder.state_dict()) == {"codebook.weight", *names}
