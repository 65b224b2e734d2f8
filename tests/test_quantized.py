"""Quantised layers equal a float product with the weights that their integers stand for."""

import pytest
import torch
from torch.nn import functional as F

from tests.test_linear import ROWS, SHAPES, drawn, off
from vlmchat.model import quantized as kinds
from vlmchat.model.quantized import (
    FEW_ROWS,
    QuantizedLinear,
    TinygemmLinear,
    VnniLinear,
    quantized_linear,
)
from vlmchat.quantize import group_size, quantize, unpacked

CPU = torch.device("cpu")
MANY = [FEW_ROWS + 1, 70]
# inputs, outputs: those of a small model, and more than one block of outputs
WIDE = [*SHAPES, (64, 64), (96, 128), (192, 192), (128, 1088)]
vnni = pytest.mark.skipif(not kinds._vnni_is_right(), reason="no VNNI here")
tinygemm = pytest.mark.skipif(not kinds._tinygemm_layout_is_known(), reason="no int4 kernel here")


def made(kind, weight, bits):
    layer = kind(weight.shape[1], weight.shape[0], bits)
    layer.fill(weight)
    return layer


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("inputs", "outputs"), [each for each in WIDE if each[0] % 2 == 0])
def test_no_weight_is_further_off_than_half_a_step(inputs, outputs, bits):
    weight = drawn(outputs, inputs).float()
    result = quantize(weight, bits)
    groups = 1 if bits == 8 else inputs // group_size(inputs)
    grouped = weight.unflatten(1, (groups, -1))
    step = grouped.abs().amax(2, keepdim=True) / (127 if bits == 8 else 8)
    error = (result.dequantized(torch.float32) - weight).unflatten(1, (groups, -1)).abs()
    if bits == 8:
        assert (error <= step * 0.51).all()
    else:  # the scale has six bits, so that it may be off by one part in 64
        assert (error <= step * 8 - step * 7 * 63 / 64).all()  # the range ends at 7 on one side
        within = grouped.abs() < 7.4 * step
        assert (error <= step * 0.51 + grouped.abs() / 64)[within].all()
    assert result.bits == bits


def test_int4_numbers_are_packed_two_to_a_byte():
    weight = torch.tensor([[-8.0, 7, 1, 0, -3, 5, 2, -1] * 8])
    result = quantize(weight, 4)
    assert result.q.shape == (1, 32)
    assert torch.equal(unpacked(result.q).float(), weight)
    assert torch.equal(result.scale.float(), torch.ones(1, 1))


@pytest.mark.parametrize("bits", [8, 4])
def test_zeros_stay_zeros(bits):
    assert not quantize(torch.zeros(4, 64), bits).dequantized(torch.float32).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("inputs", "outputs"), [each for each in WIDE if each[0] % 2 == 0])
@pytest.mark.parametrize("rows", [*ROWS, *MANY])
def test_every_shape_dtype_and_number_of_rows(inputs, outputs, rows, bits, dtype):
    weight, x = drawn(outputs, inputs), drawn(rows, inputs, dtype=dtype)
    layer = quantized_linear(inputs, outputs, bits, CPU, dtype)
    layer.fill(weight)
    result = layer(x)
    assert (result.shape, result.dtype) == ((rows, outputs), dtype)
    stands_for = quantize(weight, bits).dequantized(torch.float32)
    tolerance = {torch.float32: 3e-4, torch.float16: 2e-3, torch.bfloat16: 1.2e-2}[dtype]
    assert off(result, x, stands_for) < tolerance


@pytest.mark.parametrize(("inputs", "outputs"), [(33, 7), (1, 1)])
def test_odd_widths_in_int8(inputs, outputs):
    weight, x = drawn(outputs, inputs), drawn(3, inputs, dtype=torch.float32)
    layer = quantized_linear(inputs, outputs, 8, CPU, torch.float32)
    layer.fill(weight)
    assert off(layer(x), x, quantize(weight, 8).dequantized(torch.float32)) < 1e-4


@pytest.mark.parametrize(("inputs", "outputs"), [(33, 7), (1, 1)])
def test_odd_widths_in_int4_are_kept_as_int8(inputs, outputs):
    layer = quantized_linear(inputs, outputs, 4, CPU, torch.float32)
    assert layer.bits == 8


@vnni
def test_bytes_hold_fifteen_bits_of_the_largest_number():
    x = torch.randn(5, 96, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [[1.0], [1e-20], [1e20], [0.0], [1.0]]
    )
    halves, scale = kinds._bytes(x)
    low, high = (halves.float() - 128).chunk(2)
    back = scale * (high + low / 256)
    assert ((back - x).abs() <= x.abs().amax(1, keepdim=True) * 2**-14).all()


@vnni
def test_int8_runs_on_bytes_whatever_the_dtype():
    assert type(quantized_linear(64, 32, 8, CPU, torch.float32)) is VnniLinear


@tinygemm
@pytest.mark.parametrize("cores", [1, 2, 3])
def test_cores_turn_back_the_same_weights_to_the_bit(monkeypatch, cores):
    inputs, outputs = 2048, 64 * (2 * 3 * 4 + 1)  # shares of four blocks for each, and one left
    weight = quantize(drawn(outputs, inputs), 4)
    layer = TinygemmLinear(inputs, outputs, 4)
    layer.take(weight, CPU)
    monkeypatch.setattr(kinds.torch, "get_num_threads", lambda: cores)
    shares = []
    turned_back = kinds._turned_back

    def spy(block, scale, count, room):
        shares.append(count)
        return turned_back(block, scale, count, room)

    monkeypatch.setattr(kinds, "_turned_back", spy)
    unit = torch.eye(inputs, dtype=torch.bfloat16)
    assert torch.equal(layer._many(unit), weight.dequantized(torch.bfloat16).T)
    assert set(shares) == {1, cores}


@tinygemm
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 64), (96, 128), (192, 192), (128, 1088)])
def test_int4_has_one_answer_for_few_rows_and_many(inputs, outputs):
    layer = made(TinygemmLinear, drawn(outputs, inputs), 4)
    x = drawn(FEW_ROWS, inputs)
    assert type(quantized_linear(inputs, outputs, 4, CPU, torch.bfloat16)) is TinygemmLinear
    assert F.cosine_similarity(layer._few(x).float(), layer._many(x).float()).min() > 0.9999


def test_machines_without_kernels_give_the_same(monkeypatch):
    monkeypatch.setattr(kinds, "_vnni_is_right", lambda: False)
    monkeypatch.setattr(kinds, "_tinygemm_layout_is_known", lambda: False)
    for bits in (8, 4):
        layer = quantized_linear(192, 128, bits, CPU, torch.bfloat16)
        assert type(layer) is QuantizedLinear
        weight, x = drawn(128, 192), drawn(3, 192)
        layer.fill(weight)
        assert off(layer(x), x, quantize(weight, bits).dequantized(torch.float32)) < 1.2e-2
        assert layer.nbytes < weight.nbytes * (0.6 if bits == 8 else 0.3)
