"""Quantised layers equal a float product with the weights that their integers stand for."""

import pytest
import torch
from torch.nn import functional as F

from tests.test_linear import ROWS, SHAPES, drawn, off
from vlmchat import packing
from vlmchat.model import int4, int8
from vlmchat.model.int4 import FEW_ROWS, TinygemmLinear
from vlmchat.model.int8 import ROWS_AT_ONCE, FbgemmLinear, OneDnnLinear
from vlmchat.model.quantized import QuantizedLinear
from vlmchat.packing import quantized_linear
from vlmchat.quantize import group_size, quantize, unpacked

CPU = torch.device("cpu")
OUTLIERS = torch.tensor([7, 1300])  # of the inputs
MANY = [FEW_ROWS + 1, ROWS_AT_ONCE + 1]
# inputs, outputs: those of a small model, and more than one block of outputs
WIDE = [*SHAPES, (64, 64), (96, 128), (192, 192), (128, 1088)]
BYTE_KINDS = [kind for kind in (FbgemmLinear, OneDnnLinear) if int8.multiplies_rightly(kind)]
vnni = pytest.mark.skipif(len(BYTE_KINDS) < 2, reason="no VNNI here")
tinygemm = pytest.mark.skipif(not int4.layout_is_known(), reason="no int4 kernel here")


def made(kind, weight, bits):
    layer = kind(weight.shape[1], weight.shape[0], bits)
    layer.fill(weight)
    return layer


@pytest.mark.parametrize(("inputs", "outputs"), WIDE)
def test_no_weight_in_int8_is_further_off_than_half_a_step(inputs, outputs):
    weight = drawn(outputs, inputs).float()
    result = quantize(weight, 8)
    step = weight.abs().amax(1, keepdim=True) / 127
    assert ((result.dequantized(torch.float32) - weight).abs() <= step * 0.51).all()
    assert result.bits == 8


@pytest.mark.parametrize(("inputs", "outputs"), [each for each in WIDE if each[0] % 2 == 0])
def test_int4_takes_the_nearest_number_and_a_scale_of_three_bits(inputs, outputs):
    weight = drawn(outputs, inputs).float()
    result = quantize(weight, 4)
    groups = inputs // group_size(inputs)
    assert (result.bits, result.scale.shape) == (4, (outputs, groups))
    assert not (result.scale.view(torch.int16) & 31).any()
    scale = result.scale.float().unsqueeze(2)
    exact = weight.unflatten(1, (groups, -1)) / scale
    numbers = unpacked(result.q).float().unflatten(1, (groups, -1))
    assert torch.equal(numbers, exact.round().clamp(-8, 7))
    reached = exact.abs().amax(2)  # 8, rounded to three bits, or a step of those further
    assert (reached >= 8 * 8 / 9.01).all()
    assert (reached <= 8 * 9.01 / 8 * 5 / 4).all()


def test_int4_takes_the_scale_of_two_that_leaves_less_error():
    weight = torch.randn(64, 2048, generator=torch.Generator().manual_seed(0))
    groups = weight.unflatten(1, (16, -1))
    reach = groups.abs().amax(2) / 8
    unit = reach.log2().floor().exp2() / 4  # three bits: 4 to 8 of them
    nearest = (reach / unit + 0.5).floor() * unit
    finer = torch.where(nearest > 4 * unit, nearest - unit, nearest - unit / 2)
    sign = -groups.gather(2, groups.abs().argmax(2, keepdim=True)).sign()
    errors = []
    for scale in (nearest.unsqueeze(2) * sign, finer.unsqueeze(2) * sign):
        numbers = (groups / scale).round().clamp(-8, 7)
        errors.append((numbers * scale - groups).square().sum(2))
    off = (quantize(weight, 4).dequantized(torch.float32) - weight).unflatten(1, (16, -1))
    same = torch.isclose(off.square().sum(2), torch.minimum(*errors), rtol=1e-5)
    assert same.float().mean() > 0.995  # bfloat16 may round to the half that three bits round again
    assert 0.1 < (errors[0] < errors[1]).float().mean() < 0.9  # now the one, now the other


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


def test_bytes_hold_fifteen_bits_of_the_largest_number():
    x = torch.randn(5, 96, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [[1.0], [1e-20], [1e20], [0.0], [1.0]]
    )
    halves, largest = int8._bytes(x)
    high, low = halves.chunk(2)
    back = largest / 127 * (high + low / 256)
    assert ((back - x).abs() <= x.abs().amax(1, keepdim=True) * 2**-15).all()


def test_bytes_are_bytes_at_every_border():
    whole = torch.arange(-127 * 256, 127 * 256 + 1) + torch.tensor([[-0.5], [0.0], [0.499], [0.5]])
    halves, _ = int8._bytes(whole.clamp(-127 * 256, 127 * 256))
    assert torch.equal(halves, halves.round().clamp(-128, 127))


@vnni
def test_int8_runs_on_bytes_whatever_the_dtype():
    assert type(quantized_linear(64, 32, 8, CPU, torch.float32)) is FbgemmLinear


@vnni
def test_a_layer_with_many_outputs_multiplies_on_the_kernel_for_many_rows():
    assert type(quantized_linear(64, 512, 8, CPU, torch.bfloat16)) is OneDnnLinear
    assert type(quantized_linear(64, 512, 8, CPU, torch.bfloat16, few_rows=True)) is FbgemmLinear


@pytest.mark.parametrize("kind", BYTE_KINDS)
@pytest.mark.parametrize("rows", [1, 2, ROWS_AT_ONCE, ROWS_AT_ONCE + 1])
@pytest.mark.parametrize(("inputs", "outputs"), WIDE)
def test_each_kernel_for_bytes(kind, inputs, outputs, rows, monkeypatch):
    monkeypatch.setattr(int8, "PACKED_AT_ONCE", 48)  # more than one piece
    weight = drawn(outputs, inputs)
    layer, x = made(kind, weight, 8), drawn(rows, inputs, dtype=torch.float32)
    assert off(layer(x), x, quantize(weight, 8).dequantized(torch.float32)) < 2**-14


@tinygemm
@pytest.mark.parametrize("depth", [256, 1024, 2048])
@pytest.mark.parametrize("blocks", [1, 8, 37])
def test_many_rows_see_the_same_weights_to_the_bit(monkeypatch, blocks, depth):
    monkeypatch.setattr(int4, "DEPTH", depth)
    monkeypatch.setattr(int4, "NUMBERS_PER_CORE", 64 * 1024)  # a block for each
    monkeypatch.setattr(int4, "PUT_AT_ONCE", 3)
    weight = quantize(drawn(64 * blocks, 1024), 4)
    layer = TinygemmLinear(1024, 64 * blocks, 4)
    layer.take(weight, CPU)
    unit = torch.eye(1024, dtype=torch.bfloat16)
    assert torch.equal(layer._many(unit), weight.dequantized(torch.bfloat16).T)


@tinygemm
@pytest.mark.parametrize(
    "change",
    [lambda x: x + 100, lambda x: x.index_fill(1, OUTLIERS, 3000)],
    ids=["all", "outliers"],
)
def test_many_rows_bear_large_sums(change):
    """Their weights are turned back with an offset, which sums of the inputs take off again."""
    layer, x = made(TinygemmLinear, drawn(256, 2048), 4), change(drawn(64, 2048))
    weight = quantize(drawn(256, 2048), 4).dequantized(torch.float64)
    exact = x.double() @ weight.T
    assert ((layer._many(x) - exact).abs() <= exact.abs() / 128 + exact.abs().amax() / 2048).all()


@tinygemm
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 64), (96, 128), (192, 192), (128, 1088)])
def test_int4_has_one_answer_for_few_rows_and_many(inputs, outputs):
    layer = made(TinygemmLinear, drawn(outputs, inputs), 4)
    x = drawn(FEW_ROWS, inputs)
    assert type(quantized_linear(inputs, outputs, 4, CPU, torch.bfloat16)) is TinygemmLinear
    assert F.cosine_similarity(layer._few(x).float(), layer._many(x).float()).min() > 0.9999


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("rows", [2, 200])
def test_rows_may_lie_apart_in_memory(rows, bits):
    layer = quantized_linear(192, 128, bits, CPU, torch.bfloat16)
    layer.fill(drawn(128, 192))
    apart = drawn(rows, 2 * 192)[:, :192]
    assert torch.equal(layer(apart), layer(apart.contiguous()))


def test_machines_without_kernels_give_the_same(monkeypatch):
    monkeypatch.setattr(packing, "multiplies_rightly", lambda kind: False)
    monkeypatch.setattr(packing, "layout_is_known", lambda: False)
    for bits in (8, 4):
        layer = quantized_linear(192, 128, bits, CPU, torch.bfloat16)
        assert type(layer) is QuantizedLinear
        weight, x = drawn(128, 192), drawn(3, 192)
        layer.fill(weight)
        assert off(layer(x), x, quantize(weight, bits).dequantized(torch.float32)) < 1.2e-2
        assert layer.nbytes < weight.nbytes * (0.6 if bits == 8 else 0.3)
