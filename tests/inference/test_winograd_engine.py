import ctypes
import os
import platform
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet, finest_and_class
from nnunetv2.inference import engines
from nnunetv2.inference.engines import make_engine
from nnunetv2.inference.engines.guard import GuardedEngine
from nnunetv2.inference.engines.winograd import engine as winograd_engine
from nnunetv2.inference.engines.winograd import library as winograd_library
from nnunetv2.inference.engines.winograd import structs
from nnunetv2.inference.engines.winograd.engine import WinogradEngine, WinogradUNet
from nnunetv2.inference.engines.winograd.layers import DEEP, KERNELS, TILES, Products, UnsupportedNetwork, Workspace, fastest_tile
from nnunetv2.inference.engines.winograd.structs import Axes, Convolution, ConvolutionData, Pooling, Scaling, Segmentation, Transposition, TranspositionData
from nnunetv2.utilities.cpu_flags import cpu_flags
from tests.inference.tiny_model import wide_network as unet

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
try:
    winograd_library.load_library()
except RuntimeError as error:
    pytest.skip(f"no compiled layers: {error}", allow_module_level=True)
UNFOLDED = [(kernel, stride, 1) for kernel in KERNELS for stride in product((1, 2), repeat=3)]
TILED = [(*key, tile) for key, tiles in TILES.items() for tile in tiles]
WAYS_OF_INT16 = st.sampled_from(UNFOLDED) | st.sampled_from(TILED)
WAYS = st.sampled_from(UNFOLDED) | st.sampled_from([way for way in TILED if way[-1] not in DEEP])
STORED = {2: torch.float16, 4: torch.float32}
CPUS = ["native", "x86-64-v3", "x86-64"]  # vectors of what this CPU has, of 8 and of 4 lanes


def _runs(cpu):
    return cpu == "native" or platform.machine() == "x86_64" and (cpu == "x86-64" or cpu_flags() >= {"avx2", "fma"})


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """CPU -> file. That of this CPU is the one in use; the others come side by side, hardly optimised, for the sake of the seconds."""
    folder, compiler = tmp_path_factory.mktemp("winograd"), shutil.which(os.environ.get("CXX", "g++"))
    others = {cpu: folder / f"{cpu}.so" for cpu in CPUS[1:] if _runs(cpu)}
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda cpu: winograd_library.compile_library(compiler, others[cpu], cpu, ("-O1", "-DPAIRS_WITHOUT_TILES")), others))
    return {CPUS[0]: winograd_library.library_file()} | others


@pytest.fixture(scope="module", params=CPUS)
def library(request, compiled):
    if request.param not in compiled:
        pytest.skip(f"this CPU does not run code for {request.param}")
    return winograd_library.open_library(compiled[request.param])


@pytest.fixture(scope="module")
def library_of_pairs(library):
    if library.transformed_size(convolution(channels=(32, 16), int16=True, pairs=True)) == 0:
        pytest.skip("without AMX the layers in use have no code for pairs of bf16")
    return library


def dtype_of(library, int16):
    """What the library keeps activations in."""
    return STORED[library.stored_bytes(int16)]


def stored(library, x, int16):
    """(C, D, H, W) as (D, H, W, C), as the library keeps it."""
    return x.movedim(0, -1).to(dtype_of(library, int16)).contiguous()


def convolve(library, inputs, weight, bias, stride=(1, 1, 1), tile=24, int16=False, to_half=False, pairs=False):
    """inputs [(C, D, H, W)], weight (out, in, *kernel) -> (out, D', H', W') float32, mean and variance of each channel."""
    kernel, (out, channels) = weight.shape[2:], weight.shape[:2]
    which = Convolution.of(kernel, stride, tile, int16, (channels, out), to_half, pairs)
    filters, weight = torch.empty(library.transformed_size(which)), weight.contiguous()
    library.transform_filters(which, weight.data_ptr(), filters.data_ptr(), 2)
    last = [stored(library, x, int16) for x in inputs]
    result = torch.full((*(-(-n // s) for n, s in zip(inputs[0].shape[1:], stride)), out), torch.nan, dtype=dtype_of(library, int16 or to_half))
    moments = torch.empty(2, out, dtype=torch.double)
    library.convolve(which, ConvolutionData.of(last, filters, bias, result, moments), 2)
    return result.float().movedim(-1, 0), moments


def expected_convolution(inputs, weight, bias, stride=(1, 1, 1)):
    padding = [k // 2 for k in weight.shape[2:]]
    return F.conv3d(torch.cat(inputs)[None].double(), weight.double(), bias.double(), stride, padding)[0]


@pytest.mark.parametrize("tile", [1, 22, 24])
def test_an_impulse_gives_the_mirrored_filter(library, tile):
    x = torch.zeros(16, 5, 6, 7)
    x[3, 2, 3, 4] = 1
    weight = torch.zeros(16, 16, 3, 3, 3)
    weight[5, 3] = torch.arange(27.0).reshape(3, 3, 3)
    result, _ = convolve(library, [x], weight, torch.zeros(16), tile=tile)
    expected = torch.zeros(16, 5, 6, 7)
    expected[5, 1:4, 2:5, 3:6] = torch.arange(27.0).flip(0).reshape(3, 3, 3)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(way=WAYS, size=st.tuples(*[st.integers(1, 11)] * 3), channels=st.lists(st.sampled_from([16, 32]), min_size=1, max_size=2),
       out=st.sampled_from([16, 32, 48, 64]), seed=st.integers(0, 99))
def test_convolutions_are_torchs(library, way, size, channels, out, seed):
    kernel, stride, tile = way
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(c, *size, generator=generator) for c in channels]
    weight = torch.randn(out, sum(channels), *kernel, generator=generator)
    weight /= weight[0].numel() ** 0.5
    bias = 10 * torch.randn(out, generator=generator)
    result, moments = convolve(library, inputs, weight, bias, stride, tile)
    expected = expected_convolution(inputs, weight, bias, stride)
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=3e-4)
    torch.testing.assert_close(moments[0], expected.flatten(1).mean(1), rtol=0, atol=1e-4)
    torch.testing.assert_close(moments[1], expected.flatten(1).var(1, correction=0), rtol=1e-3, atol=1e-4)


def test_a_volume_of_many_chunks_and_an_image_of_one_channel(library):
    image = torch.randn(1, 9, 40, 33)
    weight, bias = torch.randn(32, 1, 1, 3, 3), torch.randn(32)
    first, moments = convolve(library, [image], weight, bias, tile=1)
    torch.testing.assert_close(first.double(), expected_convolution([image], weight, bias), rtol=0, atol=1e-4)
    torch.testing.assert_close(moments[1], first.double().flatten(1).var(1, correction=0), rtol=1e-4, atol=0)
    halves, moments_of_halves = convolve(library, [image], weight, bias, tile=1, to_half=True)
    assert torch.equal(halves, first.to(dtype_of(library, True)).float()) and torch.equal(moments_of_halves, moments)
    weight, bias = torch.randn(32, 32, 3, 3, 3) / 30, torch.full((32,), 1e3)
    second, moments = convolve(library, [first], weight, bias)
    torch.testing.assert_close(second.double(), expected_convolution([first], weight, bias), rtol=0, atol=2e-3)
    torch.testing.assert_close(moments[1], second.double().flatten(1).var(1, correction=0), rtol=1e-4, atol=0)  # though the mean is 1000


def test_the_same_input_gives_the_same_result_whichever_thread_does_what(library):
    x, weight, bias = torch.randn(16, 8, 48, 48), torch.randn(16, 16, 3, 3, 3), torch.randn(16)
    results = [convolve(library, [x], weight, bias) for _ in range(5)]
    assert all(torch.equal(result, results[0][0]) and torch.equal(moments, results[0][1]) for result, moments in results)


@pytest.mark.parametrize("tile", [1, 14])
def test_int16_by_hand(library, tile):
    """Two impulses under a mirrored filter of two taps. Steps are 1/32767 of an input and 2/8191 of a filter; Winograd's points have coarser ones."""
    x = torch.zeros(16, 4, 6, 9)
    x[1, 1, 2, 3], x[2, 1, 2, 4] = 1, 0.5
    weight = torch.zeros(16, 16, 1, 1, 1) if tile == 1 else torch.zeros(16, 16, 1, 3, 3)
    weight[7, 1, 0, -1, -1], weight[7, 2, 0, -1, -1] = 2, -1
    result, moments = convolve(library, [x], weight, torch.full((16,), 0.25), tile=tile, int16=True)
    shift = 0 if tile == 1 else 1
    expected = torch.full((16, 4, 6, 9), 0.25)
    expected[7, 1, 2 - shift, 3 - shift], expected[7, 1, 2 - shift, 4 - shift] = 2.25, -0.25
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-3 if tile == 1 else 1e-2)
    torch.testing.assert_close(moments[0], result.double().flatten(1).mean(1), rtol=0, atol=1e-5 if dtype_of(library, True) == torch.float16 else 1e-6)


@settings(max_examples=25, deadline=None)
@given(way=WAYS_OF_INT16, size=st.tuples(*[st.integers(1, 11)] * 3), channels=st.lists(st.sampled_from([16, 32]), min_size=1, max_size=2),
       out=st.sampled_from([16, 32, 48, 64]), magnitude=st.sampled_from([1e-6, 1.0, 1e6]), seed=st.integers(0, 99))
def test_int16_is_torchs_to_within_its_rounding(library, way, size, channels, out, magnitude, seed):
    kernel, stride, tile = way
    generator = torch.Generator().manual_seed(seed)
    in_fp16 = dtype_of(library, True) == torch.float16
    if in_fp16:
        magnitude **= 0.5  # what it holds with its full precision
    inputs = [(magnitude * torch.randn(c, *size, generator=generator).relu()).to(dtype_of(library, True)).float() for c in channels]
    weight = torch.randn(out, sum(channels), *kernel, generator=generator)
    weight /= weight[0].numel() ** 0.5
    bias = magnitude * torch.randn(out, generator=generator)
    result, moments = convolve(library, inputs, weight, bias, stride, tile, int16=True)
    difference = (result - expected_convolution(inputs, weight, bias, stride)) / magnitude
    assert difference.abs().max() < 0.05 and difference.square().mean() < 0.01**2
    rtol, atol = (2e-3, 1e-3) if in_fp16 else (1e-3, 1e-4)  # the moments are those before rounding
    torch.testing.assert_close(moments[1], result.double().flatten(1).var(1, correction=0), rtol=rtol, atol=atol * magnitude**2)


@pytest.mark.parametrize("tile", [1, 22, 24, 44])
@pytest.mark.parametrize("value", [torch.nan, -torch.nan, torch.inf, -torch.inf])
def test_int16_does_not_hide_what_is_not_finite(library, tile, value):
    x, weight, bias = torch.rand(16, 4, 8, 8), torch.randn(16, 16, 3, 3, 3), torch.zeros(16)
    x[3, 2, 4, 4] = value
    result, moments = convolve(library, [x], weight, bias, tile=tile, int16=True)
    assert not result[~expected_convolution([x], weight, bias).isfinite()].isfinite().any() and not moments[1].isfinite().any()
    weight[2, 5, 1, 1, 1] = value
    result, _ = convolve(library, [torch.rand(16, 4, 8, 8)], weight, bias, tile=tile, int16=True)
    assert not result[2].isfinite().any()


@settings(max_examples=25, deadline=None)
@given(way=WAYS_OF_INT16, size=st.tuples(*[st.integers(1, 9)] * 3), channels=st.lists(st.sampled_from([32, 64]), min_size=1, max_size=2),
       out=st.sampled_from([16, 32, 48]), seed=st.integers(0, 99))
def test_pairs_of_bf16_are_torchs_to_within_16_bits(library_of_pairs, way, size, channels, out, seed):
    kernel, stride, tile = way
    generator = torch.Generator().manual_seed(seed)
    dtype = dtype_of(library_of_pairs, True)
    inputs = [torch.randn(c, *size, generator=generator).to(dtype).float() for c in channels]
    weight = torch.randn(out, sum(channels), *kernel, generator=generator)
    weight /= weight[0].numel() ** 0.5
    bias = torch.randn(out, generator=generator)
    result, moments = convolve(library_of_pairs, inputs, weight, bias, stride, tile, int16=True, pairs=True)
    difference = (result - expected_convolution(inputs, weight, bias, stride)).abs()
    # in fp16 half of it is the result's own rounding; bf16 without low parts would be off by five times as much
    assert difference.max() < 1e-2 and difference.square().mean() < 5e-4**2
    torch.testing.assert_close(moments[1], result.double().flatten(1).var(1, correction=0), rtol=2e-3, atol=1e-3)


def test_pairs_of_bf16_by_hand(library_of_pairs):
    """(1 + 2^-9)^2: bf16 has 8 bits and would make 1 of the factors; what pairs leave out is the product of both low parts, 2^-18."""
    x, weight = torch.zeros(32, 1, 2, 2), torch.zeros(16, 32, 1, 1, 1)
    x[5, 0, 1, 0], weight[3, 5] = 1 + 2**-9, 1 + 2**-9
    result, _ = convolve(library_of_pairs, [x], weight, torch.zeros(16), tile=1, int16=True, pairs=True)
    assert result[3, 0, 1, 0] == 1 + 2**-8 and result.abs().sum() == 1 + 2**-8


@pytest.mark.parametrize("tile", [1, 22, 24, 44])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_pairs_of_bf16_do_not_hide_what_is_not_finite(library_of_pairs, tile, value):
    x, weight = torch.rand(32, 4, 8, 8), torch.randn(16, 32, 3, 3, 3)
    x[3, 2, 4, 4] = value
    result, moments = convolve(library_of_pairs, [x], weight, torch.zeros(16), tile=tile, int16=True, pairs=True)
    assert not result[~expected_convolution([x], weight, torch.zeros(16)).isfinite()].isfinite().any() and not moments[1].isfinite().any()


def test_pairs_of_bf16_want_channels_that_fill_their_tiles(library):
    assert library.transformed_size(convolution(channels=(48, 16), int16=True, pairs=True)) == 0
    assert library.transposed_size(Transposition(True, True, 16, 16, Axes(1, 1, 1))) == library.transposed_size(Transposition(False, True, 32, 16, Axes(1, 1, 1))) == 0
    assert Products(True, True).of(48, 32) == (True, False) and Products(True, True).of(64, 16) == (True, True)


IMAGES = {
    "constant": lambda c, size: torch.ones(c, *size), "near constant": lambda c, size: 1 + 1e-3 * torch.randn(c, *size),
    "step": lambda c, size: (torch.arange(size[-1]) >= size[-1] // 2).float().expand(c, *size).contiguous(),
    "checkerboard": lambda c, size: (torch.stack(torch.meshgrid(*map(torch.arange, size), indexing="ij")).sum(0) % 2 * 2 - 1).float().repeat(c, 1, 1, 1),
    "mixed signs": lambda c, size: torch.cat([torch.ones(c // 2, *size), -torch.ones(c - c // 2, *size)])}


def _halves(weight):
    """The first half of the channels positive, the others negative: sums reach far before they come back."""
    return torch.cat([weight.abs()[:, : weight.shape[1] // 2], -weight.abs()[:, weight.shape[1] // 2 :]], 1)


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("filters", [torch.abs, lambda w: torch.where(torch.rand_like(w) < 0.62, w.abs(), -w.abs()), _halves], ids=["positive", "62 %", "halves"])
@pytest.mark.parametrize("channels", [32, 128, 416])
def test_sums_of_int16_that_are_coherent_stay_exact(library, image, filters, channels):
    torch.manual_seed(channels)
    x = IMAGES[image](channels, (4, 6, 9))
    for kernel, stride, tile in [*TILED, UNFOLDED[0], UNFOLDED[-1]]:
        weight = filters(torch.randn(16, channels, *kernel))
        expected = expected_convolution([x], weight, torch.zeros(16), stride)
        result, _ = convolve(library, [x], weight, torch.zeros(16), stride, tile, int16=True)
        scale = float(F.conv3d(x[None].abs().double(), weight.abs().double(), padding=[k // 2 for k in kernel]).max())
        assert float((result - expected).abs().max()) < 5e-3 * scale, (kernel, stride, tile)


@pytest.mark.parametrize("height", [1e2, 1e4])
def test_one_hot_voxel_costs_int16_nothing_elsewhere(library, height):
    """Its own line of tiles aside, which shares its scale."""
    torch.manual_seed(0)
    x, bias = torch.randn(32, 6, 16, 20).relu(), torch.zeros(16)
    hot = x.clone()
    hot[:, 2, 2, 3] = height
    for kernel, stride, tile in [*TILED, UNFOLDED[0], UNFOLDED[-1]]:
        weight = torch.randn(16, 32, *kernel)
        far = slice(10 // stride[1], None)
        error = [(convolve(library, [image], weight, bias, stride, tile, int16=True)[0] - expected_convolution([image], weight, bias, stride))[:, :, far].abs().max()
                 for image in (x, hot)]
        assert error[1] <= 1.01 * error[0], (kernel, stride, tile)


def test_filters_of_int16_come_with_scales_and_norms():
    """What `transformed_size` says of the layout: a scale a column, and a norm for each block of 32 values of each vector of columns."""
    library = winograd_library.load_library()
    columns, blocks = 64 * 32, 2  # products of a tile of 2x2x2, 32 filters of 48 channels
    assert library.transformed_size(Convolution.of((3, 3, 3), (1, 1, 1), 22, True, (48, 32))) == columns * 48 // 2 + columns + columns // library.lanes() * blocks


def pooling(x, channels, size):
    return Pooling(False, channels, Axes(*size), Axes(2, 2, 2), x, x)


def convolution(kernel=(3, 3, 3), channels=(16, 16), **changed):
    return Convolution.of(kernel, (1, 1, 1), **{"tile": 1, "int16": False, "channels": channels} | changed)


def data(x, channels=16, **changed):
    """Of one input of a voxel, all in the array at `x`."""
    inputs, counts = (ctypes.c_void_p * 1)(x), (ctypes.c_int * 1)(channels)
    arrays = dict.fromkeys(("filters", "bias", "result", "moments"), x)
    return ConvolutionData(**{"inputs": inputs, "channels": counts, "n_inputs": 1, "size": Axes(1, 1, 1)} | arrays | changed)


@pytest.mark.parametrize("call, reason", [
    (lambda library, x: library.average_pool(pooling(x, 16, (3, 3, 3)), 1), "do not divide the size"),
    (lambda library, x: library.average_pool(pooling(x, 3, (2, 2, 2)), 1), "missing"),
    (lambda library, x: library.segment(Segmentation(False, 16, 1, 1, x, x, None, x), 1), "missing"),
    (lambda library, x: library.scale_and_activate(Scaling(False, 16, 0, x, x, x, None, 1), 1), "missing"),
    (lambda library, x: library.transform_transposed(Transposition(False, False, 3, 16, Axes(1, 1, 1)), x, x), "vectors do not divide"),
    (lambda library, x: library.transform_filters(convolution((5, 5, 5)), x, x, 1), "no code"),
    (lambda library, x: library.convolve(convolution(), data(x), 0), "missing"),
    (lambda library, x: library.convolve(convolution(), data(x, size=Axes(1, 0, 1)), 1), "size or stride is none"),
    (lambda library, x: library.convolve(convolution(), data(x, channels=32), 1), "other channels than the filters"),
    (lambda library, x: library.convolve(convolution(channels=(3, 16), tile=22), data(x, channels=3), 1), "vectors do not divide"),
    (lambda library, x: library.convolve(convolution(tile=99), data(x), 1), "no code"),
    (lambda library, x: library.convolve(convolution(int16=True, to_half=True), data(x), 1), "no code")])
def test_arguments_that_lead_outside_of_arrays_are_refused(library, call, reason):
    array = torch.zeros(1024)
    with pytest.raises(RuntimeError, match=reason):
        call(library, array.data_ptr())


def test_structs_are_as_large_here_as_where_they_are_compiled(library):
    assert [library.struct_size(i) for i in range(len(structs.STRUCTS) + 1)] == [*map(ctypes.sizeof, structs.STRUCTS), 0]


def test_a_line_that_memory_does_not_hold_is_a_memory_error(library):
    array = torch.zeros(1024)
    x = array.data_ptr()
    with pytest.raises(MemoryError, match="convolve_transposed"):
        library.convolve_transposed(Transposition(False, False, 4096, 16, Axes(1, 1, 1)), TranspositionData(Axes(1, 1, 1 << 30), x, x, x, x), 1)


def test_int16_of_nothing_but_zeros_is_the_bias(library):
    for tile in (1, 22, 24, 44):
        result, _ = convolve(library, [torch.zeros(16, 3, 5, 5)], torch.randn(16, 16, 3, 3, 3), torch.arange(16.0), tile=tile, int16=True)
        assert torch.equal(result, torch.arange(16.0)[:, None, None, None].expand(16, 3, 5, 5))
        result, _ = convolve(library, [torch.rand(16, 3, 5, 5)], torch.zeros(16, 16, 3, 3, 3), torch.arange(16.0), tile=tile, int16=True)
        assert torch.equal(result, torch.arange(16.0)[:, None, None, None].expand(16, 3, 5, 5))


def test_an_unknown_kernel_has_no_size(library):
    assert library.transformed_size(convolution((5, 5, 5))) == library.transformed_size(convolution((1, 3, 3), tile=24)) == 0


@pytest.mark.parametrize("size, channels, tile, of_int16", [
    ((64, 128, 192), 32, 24, 44), ((8, 8, 12), 128, 24, 24), ((8, 8, 12), 320, 22, 22), ((4, 4, 6), 256, 22, 22), ((1, 1, 1), 32, 1, 1)])
def test_the_fewer_voxels_the_smaller_the_tiles(size, channels, tile, of_int16):
    assert fastest_tile((3, 3, 3), (1, 1, 1), size, channels, False) == tile
    assert fastest_tile((3, 3, 3), (1, 1, 1), size, channels, True) == of_int16
    assert fastest_tile((3, 3, 3), (2, 1, 2), size, channels, True) == fastest_tile((1, 1, 1), (1, 1, 1), size, channels, False) == 1


@pytest.mark.parametrize("int16, pairs", [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("stride", [(1, 2, 2), (2, 2, 2), (2, 1, 3)])
def test_transposed_convolution_and_average_pooling_are_torchs(library, stride, int16, pairs):
    x, weight, bias = torch.randn(32, 3, 4, 5).half().float(), torch.randn(32, 16, *stride), torch.randn(16)
    last, which = stored(library, x, int16), Transposition(int16, pairs, 32, 16, Axes(*stride))
    transformed = torch.empty(library.transposed_size(which))
    if pairs and not len(transformed):
        pytest.skip("without AMX the layers in use have no code for pairs of bf16")
    library.transform_transposed(which, weight.data_ptr(), transformed.data_ptr())
    result = torch.empty(*(n * s for n, s in zip(x.shape[1:], stride)), 16, dtype=last.dtype)
    library.convolve_transposed(which, TranspositionData(Axes(3, 4, 5), last.data_ptr(), transformed.data_ptr(), bias.data_ptr(), result.data_ptr()), 2)
    expected = F.conv_transpose3d(x[None], weight, bias, stride)[0]
    result_first = result.float().movedim(-1, 0)
    in_fp16 = last.dtype == torch.float16
    torch.testing.assert_close(result_first, expected, rtol=0, atol=2e-2 if in_fp16 else 1e-2 if int16 else 1e-4)
    pooled = torch.empty(3, 4, 5, 16, dtype=last.dtype)
    library.average_pool(Pooling(int16, 16, Axes(*result.shape[:3]), Axes(*stride), result.data_ptr(), pooled.data_ptr()), 2)
    torch.testing.assert_close(pooled.float().movedim(-1, 0), F.avg_pool3d(result_first[None], stride)[0], rtol=0, atol=5e-3 if in_fp16 else 1e-4)


@pytest.mark.parametrize("int16", [False, True])
def test_scale_residual_and_leaky_relu_by_hand(library, int16):
    dtype = dtype_of(library, int16)
    x = torch.tensor([1.0, -2.0] * 8, dtype=dtype).repeat(2, 1)  # two voxels of 16 channels
    scale, shift, residual = torch.full((16,), 3.0), torch.full((16,), 1.0), torch.full((2, 16), -1.0, dtype=dtype)
    library.scale_and_activate(Scaling(int16, 16, 2, x.data_ptr(), scale.data_ptr(), shift.data_ptr(), residual.data_ptr(), 0.5), 2)
    assert x.tolist() == [[3.0, -3.0] * 8] * 2


@pytest.mark.parametrize("int16", [False, True])
def test_the_last_layer_is_a_matrix_product_of_each_voxel(library, int16):
    x = torch.randint(-8, 8, (5, 3 * 16)).to(dtype_of(library, int16))  # exact in float16, and so are sums in float32
    weights, bias, logits = torch.randint(-8, 8, (3, 48)).float(), torch.tensor([1.0, 2.0, 3.0]), torch.empty(3, 5)
    library.segment(Segmentation(int16, 48, 3, 5, x.data_ptr(), weights.data_ptr(), bias.data_ptr(), logits.data_ptr()), 2)
    assert torch.equal(logits, (x.float() @ weights.T + bias).T)


@torch.no_grad()
@pytest.mark.parametrize("kind", [ResidualEncoderUNet, PlainConvUNet])
@pytest.mark.parametrize("changed", [{}, {"input_channels": 3, "class_head": False}, {"nonlin": nn.ReLU, "conv_bias": False, "n_stages": 3}])
def test_whole_networks_are_torchs_at_changing_sizes(kind, changed):
    network = unet(kind, **changed)
    engine = WinogradEngine(lambda: network, changed.get("input_channels", 1), (2, 4, 4), (16, 64, 64))
    for size in ((4, 12, 20), (4, 12, 20), (10, 8, 4)):
        x = torch.randn(2, changed.get("input_channels", 1), *size)
        expected, got = finest_and_class(network(x)), engine(x)
        torch.testing.assert_close(got[0], expected[0], rtol=0, atol=1e-3)
        assert got[0].is_contiguous()
        if expected[1] is None:
            assert got[1] is None
        else:
            torch.testing.assert_close(got[1], expected[1], rtol=0, atol=1e-3)
            torch.testing.assert_close(engine.class_features(x), network.class_features(x), rtol=0, atol=1e-3)
            other = expected[0].flip(1)
            torch.testing.assert_close(engine.classify(x, other), network.classify(x, other), rtol=0, atol=1e-3)
            torch.testing.assert_close(engine.features_under(x, other), network.features_under(x, other), rtol=0, atol=1e-3)


@torch.no_grad()
def test_deep_supervision_and_weights_in_half_precision():
    network = unet(deep_supervision=True)
    x = torch.randn(1, 1, 4, 16, 16)
    engine = WinogradEngine(lambda: network, 1, (2, 4, 4), (4, 16, 16))
    torch.testing.assert_close(engine(x)[0], network(x)[0][0], rtol=0, atol=1e-3)
    half = WinogradUNet(unet(class_head=False).half(), (4, 16, 16))
    rounded = unet(class_head=False).half().float()
    torch.testing.assert_close(half(x[0], None)[0], rounded(x)[0], rtol=0, atol=1e-3)


def test_outputs_survive_the_next_call_and_repeat():
    engine = WinogradEngine(unet, 1, (2, 4, 4), (4, 16, 16))
    x = torch.randn(1, 1, 4, 16, 16)
    first = engine(x)[0]
    before = first.clone()
    engine(torch.randn(1, 1, 4, 16, 16))
    assert torch.equal(first, before) and torch.equal(engine(x)[0], before)


def test_the_class_head_is_left_out_when_the_class_is_not_wanted():
    engine, x = WinogradEngine(unet, 1, (2, 4, 4), (8, 16, 16)), torch.randn(1, 1, 8, 16, 16)
    seg_logits, class_logits = engine(x)
    engine.network.class_head = None
    without, nothing = engine(x, classify=False)
    assert class_logits is not None and nothing is None and torch.equal(without, seg_logits)


def test_the_workspace_gives_back_the_smallest_buffer_that_fits():
    workspace = Workspace()
    large, small = workspace.take(4, 5), workspace.take(3, 8, dtype=torch.float16)
    where = small.data_ptr()
    workspace.give(large, small)
    assert workspace.take(2, 5).data_ptr() == where
    assert workspace.take(2, 2).numel() == 4  # a buffer of its own: 20 floats for 4 would be a waste
    with pytest.raises(KeyError):
        workspace.give(torch.zeros(3))


@pytest.mark.parametrize("changed, named", [
    ({"features_per_stage": [4, 8, 8]}, "Conv3d"), ({"norm_op": nn.BatchNorm3d}, "BatchNorm3d"), ({"nonlin": nn.ELU}, "ELU"),
    ({"kernel_sizes": [[5, 5, 5]] * 3}, "Conv3d")])
def test_what_has_no_code_is_named_and_openvino_or_torch_serves(changed, named):
    with pytest.raises(UnsupportedNetwork, match=named):
        WinogradUNet(unet(class_head=False, **changed), (8, 32, 32))
    for wish in ("auto", "winograd"):
        with pytest.warns(UserWarning, match=f"winograd is not used.*{named}"):
            assert make_engine(lambda: unet(class_head=False, **changed), CPU, "fp32", wish, 1, (2, 4, 4)).name != "winograd"


@torch.no_grad()
def test_int16_is_near_fp32_and_repeats_in_it():
    x = torch.randn(1, 1, 8, 32, 32)
    int16 = WinogradEngine(unet, 1, (2, 4, 4), (8, 32, 32), int16=True)
    fp32 = int16.in_full_precision()
    assert (int16.precision, fp32.precision) == ("int16", "fp32")
    seg_logits, class_logits = int16(x)
    expected, expected_classes = fp32(x)
    assert 0 < (seg_logits - expected).abs().max() < 0.03 * expected.abs().max()
    assert (class_logits - expected_classes).abs().max() < 0.03 * expected_classes.abs().max()


@torch.no_grad()
def test_int16_takes_images_of_as_many_channels_as_a_vector_has():
    network, x = unet(input_channels=16, class_head=False), torch.randn(1, 16, 8, 32, 32)
    expected = network(x)
    assert (WinogradEngine(lambda: network, 16, (2, 4, 4), (8, 32, 32), int16=True)(x)[0] - expected).abs().max() < 0.03 * expected.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("magnitude", [1e-5, 1e5])
def test_int16_takes_weights_of_any_magnitude_before_norms(magnitude):
    """Kept in fp16 as they come, the results of such layers would be infinite, or a few steps above 0."""
    network, x = unet(), torch.randn(1, 1, 8, 32, 32)
    for module in network.modules():
        if isinstance(module, nn.InstanceNorm3d):
            module.eps = 1e-30
        if isinstance(module, nn.Conv3d) and module is not network.decoder.seg_layers[-1]:
            module.weight.mul_(magnitude)
            if module.bias is not None:
                module.bias.mul_(magnitude)  # lest torch itself loses the results beside it
    int16 = WinogradEngine(lambda: network, 1, (2, 4, 4), (8, 32, 32), int16=True)
    expected = network(x)[0]
    assert (int16(x)[0] - expected).abs().max() < 0.03 * expected.abs().max()


class WithoutTiles:
    """The compiled layers where the system gives no leave to use AMX tiles."""

    def __init__(self, library):
        self._library = library

    def has_tiles(self):
        return 0

    def __getattr__(self, name):
        return getattr(self._library, name)


def test_pairs_of_bf16_are_near_fp32_and_need_tiles(monkeypatch):
    x = torch.randn(1, 1, 8, 32, 32)
    library = winograd_library.load_library()
    pairs = WinogradEngine(unet, 1, (2, 4, 4), (8, 32, 32), int16=True, pairs=True)
    assert pairs.precision == ("bf16x3" if library.has_tiles() else "int16")
    difference = pairs(x)[0] - pairs.in_full_precision()(x)[0]
    assert pairs.in_full_precision().precision == "fp32" and difference.abs().max() < 0.03 * pairs(x)[0].abs().max()
    monkeypatch.setattr(winograd_engine, "load_library", lambda: WithoutTiles(library))
    assert WinogradEngine(unet, 1, (2, 4, 4), (8, 32, 32), int16=True, pairs=True).precision == "int16"


@pytest.mark.parametrize("bf16, int16, chosen", [(True, True, "winograd"), (False, True, "winograd"), (False, False, "openvino")])
def test_the_cpus_choice(monkeypatch, bf16, int16, chosen):
    pytest.importorskip("openvino")
    monkeypatch.setattr(engines, "cpu_has_fast_bf16", lambda: bf16)
    monkeypatch.setattr(engines, "cpu_has_fast_int16", lambda: int16)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This CPU has no bf16")
        assert make_engine(unet, CPU, "half", divisor=(2, 4, 4)).name == chosen
    assert make_engine(unet, CPU, "fp32", divisor=(2, 4, 4)).name == "winograd"
    asked_for = make_engine(unet, CPU, "half", "winograd", divisor=(2, 4, 4))
    with_tiles = bf16 and winograd_library.load_library().has_tiles()
    assert isinstance(asked_for, GuardedEngine) and asked_for.precision == ("bf16x3" if with_tiles else "int16")
    with pytest.warns(UserWarning, match="winograd is not used, torch is: it runs on the CPU"):
        assert make_engine(unet, torch.device("meta"), "half", "winograd").name == "torch"


def test_a_wrong_result_is_noticed(monkeypatch):
    monkeypatch.setattr(WinogradUNet, "__call__", lambda self, image, head: (torch.zeros(3, *image.shape[1:]), torch.zeros(3)))
    with pytest.raises(RuntimeError, match="segmentation logits differ"):
        WinogradEngine(unet, 1, (2, 4, 4), (4, 16, 16))


@pytest.fixture
def checks(monkeypatch, tmp_path):
    """Precisions that engines were checked in; nothing counts as checked before."""
    done = []
    monkeypatch.setattr(winograd_engine, "checked_file", lambda *what: tmp_path / "checked" / str(abs(hash(repr(what)))))
    monkeypatch.setattr(WinogradEngine, "_check", lambda self, *arguments: done.append(self.precision))
    return done


def test_the_same_weights_are_checked_once_in_each_precision(checks):
    for identity in ("a", "a", "b"):
        WinogradEngine(unet, 1, (2, 4, 4), (4, 16, 16), identity=identity)
    assert checks == ["fp32", "fp32"]
    int16 = WinogradEngine(unet, 1, (2, 4, 4), (4, 16, 16), int16=True, identity="a")
    int16.in_full_precision()
    WinogradEngine(unet, 1, (2, 4, 4), (4, 16, 16), int16=True, identity="a")
    assert checks == ["fp32", "fp32", "int16"]


def test_an_edit_of_the_code_is_checked_anew(checks, monkeypatch):
    WinogradEngine(unet, 1, (2, 4, 4), (4, 16, 16), identity="a")
    monkeypatch.setattr(winograd_engine, "_code_of", lambda network, before=winograd_engine._code_of: [*before(network), "edited"])
    WinogradEngine(unet, 1, (2, 4, 4), (4, 16, 16), identity="a")
    assert checks == ["fp32", "fp32"]
    assert any("class ResidualBlock" in source for source in winograd_engine._code_of(unet()))


def test_without_an_identity_or_a_place_to_note_it_every_engine_is_checked(checks, monkeypatch, tmp_path):
    WinogradEngine(unet, 1, (2, 4, 4), (4, 16, 16)), WinogradEngine(unet, 1, (2, 4, 4), (4, 16, 16))
    (tmp_path / "file").touch()
    monkeypatch.setattr(winograd_engine, "checked_file", lambda *what: tmp_path / "file" / "checked")
    WinogradEngine(unet, 1, (2, 4, 4), (4, 16, 16), identity="a"), WinogradEngine(unet, 1, (2, 4, 4), (4, 16, 16), identity="a")
    assert checks == ["fp32"] * 4


def test_what_fails_the_check_is_not_noted_as_checked(checks, monkeypatch, tmp_path):
    def fail(self, *arguments):
        raise RuntimeError("its logits differ")

    monkeypatch.setattr(WinogradEngine, "_check", fail)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="differ"):
            WinogradEngine(unet, 1, (2, 4, 4), (4, 16, 16), identity="a")
