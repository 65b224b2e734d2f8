"""Layers on compiled kernels give the products that their weights stand for."""

import shutil

import pytest
import torch

import vlmchat
from tests.test_linear import ROWS, drawn, off, packing
from vlmchat.compiler import NotCompiledError, compiled
from vlmchat.decode import EagerDecoder
from vlmchat.loading import DEMO_FOLDER
from vlmchat.model import compiled as module
from vlmchat.model.compiled import (
    SOURCE,
    CompiledLinear,
    CompiledQuantizedLinear,
    Kernels,
    compile_kernels,
    multiply_rightly,
)
from vlmchat.model.linear import FastLinear, packs
from vlmchat.packing import takes_kernels
from vlmchat.quantize import quantize

CPU = torch.device("cpu")
QUESTIONS = ["what is this?", "caption en", "how many shapes are there?", "detect circle"]
FITTING = [(32, 64), (64, 64), (96, 128), (192, 192), (256, 1088), (2048, 64), (16384, 64)]
BITS = [16, 8, 4]
SETS = {"this": (), "AVX-512": ("-mno-avx512vnni", "-mno-avx512bf16"), "AVX2": ("-march=haswell",)}
CAPABILITY = torch.backends.cpu.get_cpu_capability()
needed = pytest.mark.skipif(
    shutil.which("gcc") is None or not CAPABILITY.startswith("AVX"),
    reason="needs gcc and AVX2",
)


@pytest.fixture(scope="module", params=SETS)
def kernels(request):
    """The kernels, for the processor at hand and for older ones."""
    if request.param == "AVX-512" and not CAPABILITY.startswith("AVX512"):
        pytest.skip("no AVX-512 here")
    return Kernels(compiled(SOURCE, SETS[request.param]))


def made(kernels, weight, bits):
    """A layer, and the weights that it stands for."""
    outputs, inputs = weight.shape
    if bits == 16:
        layer, numbers = CompiledLinear(kernels, inputs, outputs), weight.double()
        size = weight.nbytes
    else:
        small = quantize(weight, bits)
        layer = CompiledQuantizedLinear(kernels, inputs, outputs, bits)
        numbers, size = small.dequantized(torch.float64), small.q.nbytes + small.scale.nbytes
    layer.fill(weight)
    assert layer.nbytes == size
    return layer, numbers


@needed
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("inputs", "outputs"), FITTING)
def test_weights_give_the_product_rounded_once(kernels, inputs, outputs, bits):
    weight = drawn(outputs, inputs)
    layer, numbers = made(kernels, weight, bits)
    for rows in (*ROWS, 3, 271):
        x = drawn(rows, inputs)
        result = layer(x)
        assert (result.shape, result.dtype) == ((rows, outputs), torch.bfloat16)
        assert off(result, x, numbers) < 2**-8 * 1.05  # and x in 16 bits


@needed
@pytest.mark.parametrize("bits", [16, 4])  # int8's are no numbers of bfloat16
def test_weights_are_seen_to_the_bit(kernels, bits):
    weight = drawn(64, 256)
    layer, numbers = made(kernels, weight, bits)
    assert torch.equal(layer(torch.eye(256).to(torch.bfloat16)).T, numbers.to(torch.bfloat16))


@needed
@pytest.mark.parametrize("bits", BITS)
def test_the_largest_sums_do_not_overflow(kernels, bits):
    weight = torch.full((64, 16384), -1.0, dtype=torch.bfloat16)
    layer, numbers = made(kernels, weight, bits)
    x = torch.full((2, 16384), -1.0, dtype=torch.bfloat16)
    assert off(layer(x), x, numbers) < 2**-8


@needed
@pytest.mark.parametrize("bits", BITS)
def test_inputs_that_stand_out_cost_no_more_than_16_bits(kernels, bits):
    x = drawn(3, 2048)
    x[:, [7, 1300]] *= 2000
    layer, numbers = made(kernels, drawn(64, 2048), bits)
    exact = x.double() @ numbers.T
    step = x.abs().amax(1, keepdim=True).double() / 32767
    wrong = step / 2 * numbers.abs().sum(1) + exact.abs() * 2**-8
    assert ((layer(x).double() - exact).abs() <= wrong).all()


@needed
@pytest.mark.parametrize("bits", BITS)
def test_what_is_no_number_shows_and_stays_in_its_row(kernels, bits):
    layer, _ = made(kernels, drawn(64, 256), bits)
    x = drawn(5, 256)
    wanted = layer(x)
    x[1, 3], x[3, 200] = torch.nan, -torch.inf
    result = layer(x)
    assert not result[[1, 3]].isfinite().any()
    assert torch.equal(result[[0, 2, 4]], wanted[[0, 2, 4]])


@needed
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-30, 1e30])
def test_rows_may_be_of_any_size(kernels, bits, size):
    layer, numbers = made(kernels, drawn(64, 256), bits)
    x = drawn(2, 256) * size
    exact = x.double() @ numbers.T
    assert (layer(x).double() - exact).abs().max() <= exact.abs().max() / 2**8 + 1e-32


@needed
@pytest.mark.parametrize("bits", BITS)
def test_a_row_is_the_same_alone_and_among_others(kernels, bits):
    layer, _ = made(kernels, drawn(128, 192), bits)
    x = drawn(11, 192)
    assert torch.equal(layer(x), torch.cat([layer(row) for row in x.split(1)]))


@needed
@pytest.mark.parametrize("bits", BITS)
def test_any_number_of_threads_gives_the_same(kernels, bits):
    layer, _ = made(kernels, drawn(192, 256), bits)
    x, threads = drawn(9, 256), torch.get_num_threads()
    wanted = layer(x)
    try:
        for number in (1, 3, 8):
            torch.set_num_threads(number)
            assert torch.equal(layer(x), wanted)
            assert torch.equal(made(kernels, drawn(192, 256), bits)[0](x), wanted)
    finally:
        torch.set_num_threads(threads)


@needed
def test_leading_axes_stay_and_gaps_do_not_matter(kernels):
    layer, _ = made(kernels, drawn(64, 32), 8)
    x = drawn(2, 3, 32)
    assert layer(x).shape == (2, 3, 64)
    assert torch.equal(layer(x)[1, 2], layer(x.reshape(6, 32))[5])
    assert torch.equal(layer(x.transpose(0, 1)), layer(x).transpose(0, 1))
    assert torch.equal(layer(drawn(4, 64)[:, ::2]), layer(drawn(4, 64)[:, ::2].contiguous()))


@needed
@pytest.mark.parametrize("bits", [8, 4])
def test_no_layer_holds_on_to_what_it_was_made_of(kernels, bits):
    """Or the file that weights were kept in would stay in memory beside them."""
    small = quantize(drawn(128, 256), bits)
    layer = CompiledQuantizedLinear(kernels, 256, 128, bits)
    layer.take(small, CPU)
    old = {tensor.untyped_storage().data_ptr() for tensor in (small.q, small.scale)}
    assert not old & {each.untyped_storage().data_ptr() for each in (layer.q, layer.scale)}


@needed
@pytest.mark.parametrize("bits", BITS)
def test_rows_that_do_not_fit_are_refused(kernels, bits):
    layer, _ = made(kernels, drawn(64, 256), bits)
    for x in (drawn(2, 128), drawn(2, 512), drawn(2, 256, dtype=torch.float32)):
        with pytest.raises(ValueError, match="does not fit"):
            layer(x)
    assert layer(drawn(256)).shape == (64,)
    assert layer(drawn(0, 256)).shape == (0, 64)


@needed
def test_kernels_that_are_wrong_are_refused(kernels, monkeypatch):
    assert multiply_rightly(kernels)
    right = kernels.product
    for bits in BITS:
        wrong = Kernels(kernels.functions)
        factor = {bits: 1.01}.get
        wrong.product = lambda x, weight, bits, *scale, factor=factor: (
            right(x, weight, bits, *scale) * factor(bits, 1)
        )
        assert not multiply_rightly(wrong)
    monkeypatch.setattr(module, "compiled", lambda source: kernels.functions)
    monkeypatch.setattr(module, "multiply_rightly", lambda made: False)
    with pytest.raises(NotCompiledError, match="multiplies wrongly"):
        compile_kernels.__wrapped__()


def test_only_a_cpu_in_bfloat16_has_a_use_for_them():
    assert takes_kernels(CPU, torch.bfloat16, "int4")
    assert takes_kernels(CPU, torch.bfloat16, "none") == packs(CPU, torch.bfloat16)
    assert not takes_kernels(CPU, torch.float32, "none")
    assert not takes_kernels(CPU, torch.float32, "int4")
    assert not takes_kernels(torch.device("cuda"), torch.bfloat16, "int4")


def kinds(session):
    return {type(m).__name__ for m in session.engine.model.modules() if isinstance(m, FastLinear)}


def answers(session):
    session.add_image(DEMO_FOLDER / "sample.png")
    return [session.answer(question).text for question in QUESTIONS]


@needed
@packing
@pytest.mark.parametrize("quantize", ["none", "int8", "int4"])
def test_the_demo_model_answers_the_same(quantize):
    plain = vlmchat.load(dtype="bfloat16", quantize=quantize)
    fast = vlmchat.load(dtype="bfloat16", quantize=quantize, compile=True)
    own = "CompiledLinear" if quantize == "none" else "CompiledQuantizedLinear"
    assert own not in kinds(plain)
    assert own in kinds(fast)
    assert (fast.notices, fast.engine.quantize) == (plain.notices, quantize)
    assert isinstance(fast.engine.decoder, EagerDecoder)
    assert fast.engine.weight_bytes <= plain.engine.weight_bytes
    assert answers(fast) == answers(plain)
    fast.clear()
    together = fast.answers(QUESTIONS)
    assert [reply.text for reply in together] == answers(plain)


def test_without_a_compiler_one_line_says_so_and_answers_come(monkeypatch):
    compile_kernels.cache_clear()
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")
    session = vlmchat.load(dtype="bfloat16", quantize="int8", compile=True)
    assert session.notices == ("--compile: no C compiler found: decoding goes on without it",)
    assert kinds(session) == kinds(vlmchat.load(dtype="bfloat16", quantize="int8"))
    assert all(answers(session))
