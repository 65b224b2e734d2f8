"""Fast layers equal a float32 product, for any number of rows and any shape."""

import pytest
import torch

from vlmchat.model.linear import BEST_ROWS, PackedLinear, packs

CPU = torch.device("cpu")
SHAPES = [
    (256, 192),
    (192, 256),
    (2048, 256),
    (64, 32),
    (40, 24),
    (33, 7),
    (1, 1),
]  # inputs, outputs
ROWS = [1, 2, BEST_ROWS - 1, BEST_ROWS, BEST_ROWS + 1, 8, 40]
packing = pytest.mark.skipif(not packs(CPU, torch.bfloat16), reason="no bfloat16 in oneDNN here")


def drawn(*shape, dtype=torch.bfloat16):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def filled(layer, weight):
    layer.fill(weight)
    return layer


def off(result, x, weight):
    """The largest error, as a share of the largest exact value."""
    exact = x.double() @ weight.double().T
    return float((result.double() - exact).abs().max() / exact.abs().max())


@packing
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("rows", ROWS)
def test_packed_weights_give_the_product_rounded_once(inputs, outputs, rows):
    weight, x = drawn(outputs, inputs), drawn(rows, inputs)
    layer = filled(PackedLinear(inputs, outputs), weight)
    result = layer(x)
    assert (result.shape, result.dtype) == ((rows, outputs), torch.bfloat16)
    assert off(result, x, weight) < 2**-8
    assert layer.nbytes == weight.nbytes


@packing
def test_leading_axes_stay():
    layer = filled(PackedLinear(32, 16), drawn(16, 32))
    x = drawn(2, 3, 32)
    assert layer(x).shape == (2, 3, 16)
    assert torch.equal(layer(x)[1, 2], layer(x.reshape(6, 32))[5])
    assert layer(x[:, :, :].transpose(0, 1)).shape == (3, 2, 16)


def test_only_bfloat16_on_a_cpu_is_packed():
    assert not packs(CPU, torch.float32)
    assert not packs(torch.device("cuda"), torch.bfloat16)
