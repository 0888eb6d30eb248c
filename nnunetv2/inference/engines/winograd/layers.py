"""The layers of a U-Net as the compiled functions compute them: which tiles, in which buffers, with which filters."""

from collections.abc import Sequence
from math import ceil, prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dynamic_network_architectures.architectures.unet import UNet
from dynamic_network_architectures.building_blocks.conv_blocks import ConvNormNonlin, StackedConvBlocks
from dynamic_network_architectures.building_blocks.encoders import PlainConvEncoder, ResidualEncoder
from dynamic_network_architectures.building_blocks.residual import ResidualBlock
from nnunetv2.inference.engines import engine_threads
from nnunetv2.inference.engines.winograd.library import load_library
from nnunetv2.inference.engines.winograd.structs import Axes, Convolution, ConvolutionData, Pooling, Scaling, Segmentation, Transposition, TranspositionData
from nnunetv2.utilities.errors import InputError

# What kernels/dispatch.cpp has beside unfolding, by kernel and stride: tiles, as their depth and width in digits -> matrix products of a tile, its outputs
# (D, H, W). DEEP ones are not there for fp32: they round more, and it is to keep upstream's masks.
TILES: dict[tuple[tuple[int, ...], tuple[int, ...]], dict[int, tuple[int, tuple[int, int, int]]]] = {
    ((1, 3, 3), (1, 1, 1)): {14: (36, (1, 4, 4))},
    ((1, 3, 3), (1, 2, 2)): {12: (25, (1, 2, 2))},
    ((3, 3, 3), (1, 1, 1)): {22: (64, (2, 2, 2)), 24: (144, (2, 4, 4)), 44: (216, (4, 4, 4))},
    ((3, 3, 3), (1, 2, 2)): {22: (100, (2, 2, 2)), 42: (150, (4, 2, 2))},
    ((3, 3, 3), (2, 2, 2)): {22: (125, (2, 2, 2))},
}
DEEP = (42, 44)
KERNELS = ((1, 1, 1), (1, 3, 3), (3, 3, 3))
# Rows of a matrix product come in twelves; fetching its filters takes the time of some more (about that, by the layers of two networks).
ROWS, FILTER_ROWS = 12, 20
PAIRS_OF = (32, 16)  # input and output channels of a layer in pairs of bf16 are multiples of these
MOST_CHANNELS = 256  # above, the filters of the largest tiles gain no time and would take hundreds of megabytes more


class UnsupportedNetwork(RuntimeError):
    """A layer or size has no code in kernels/."""


def own(tensor: Tensor) -> Tensor:
    """A float32 copy. A mere view would keep the whole checkpoint in memory, which is one mapped file."""
    return tensor.detach().to(torch.float32, copy=True)


class Workspace:
    """Activations of a forward pass, kept for the next: the system zeroes fresh memory page by page. For one pass at a time."""

    def __init__(self) -> None:
        self._free: list[Tensor] = []
        self._taken: dict[int, Tensor] = {}

    def take(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Uninitialised, of `shape`."""
        size = torch.Size(shape).numel() * dtype.itemsize
        fitting = [buffer for buffer in self._free if size <= buffer.numel() <= 2 * size]
        if fitting:
            buffer = min(fitting, key=torch.Tensor.numel)
            self._free = [other for other in self._free if other is not buffer]
        else:
            buffer = torch.empty(size, dtype=torch.uint8)
        self._taken[buffer.data_ptr()] = buffer
        return buffer[:size].view(dtype).view(shape)

    def give(self, *tensors: Tensor) -> None:
        """Tensors taken before whose values are no longer needed."""
        self._free += [self._taken.pop(tensor.data_ptr()) for tensor in tensors]


def _slope(nonlin: nn.Module | None) -> float:
    if nonlin is None or isinstance(nonlin, nn.Identity):
        return 1.0
    if isinstance(nonlin, nn.LeakyReLU) and 0 <= nonlin.negative_slope <= 1:
        return nonlin.negative_slope
    if isinstance(nonlin, nn.ReLU):
        return 0.0
    raise UnsupportedNetwork(f"it has a nonlinearity {nonlin}")


def check_supported(network: nn.Module) -> None:
    """UnsupportedNetwork names what of `network` has no code here. Weights are not looked at; they may be on the meta device."""
    if not isinstance(network, UNet) or network.encoder.ops.n_dims != 3:
        raise UnsupportedNetwork("it is none of the 3D U-Nets")
    if not isinstance(network.encoder, (ResidualEncoder, PlainConvEncoder)):
        raise UnsupportedNetwork(f"it has a {type(network.encoder).__name__}")
    lanes = load_library().lanes()
    for module in network.modules():
        if isinstance(module, ConvNormNonlin):
            _check_layer(module, lanes)
        elif isinstance(module, ResidualBlock):
            _slope(module.nonlin)
        elif isinstance(module, nn.ConvTranspose3d):
            if module.kernel_size != module.stride or set(module.padding) != {0} or module.groups != 1 or module.in_channels % lanes \
                    or module.out_channels % lanes:
                raise UnsupportedNetwork(f"it has a layer {module}")


def _check_layer(layer: ConvNormNonlin, lanes: int) -> None:
    conv, norm = layer.conv, getattr(layer, "norm", None)
    if not isinstance(conv, nn.Conv3d) or conv.kernel_size not in KERNELS or list(conv.padding) != [k // 2 for k in conv.kernel_size] \
            or conv.groups != 1 or set(conv.dilation) != {1} or conv.out_channels % lanes:
        raise UnsupportedNetwork(f"it has a layer {conv}")
    if norm is not None and (not isinstance(norm, nn.InstanceNorm3d) or norm.track_running_stats):
        raise UnsupportedNetwork(f"it has a layer {norm}")
    if _slope(getattr(layer, "nonlin", None)) != 1 and norm is not None and list(layer.all_modules)[-1] is norm:
        raise UnsupportedNetwork("its nonlinearities come before the norms")


def fastest_tile(kernel: tuple[int, ...], stride: tuple[int, ...], size: Sequence[int], channels: int, int16: bool) -> int:
    """The tiles, 1 for none, with which a convolution to `size` (D, H, W) voxels of so many channels is fastest."""
    ways = {1: (prod(kernel), (1, 1, 1))} | TILES.get((kernel, stride), {})

    def work(tile: int) -> int:
        products, shape = ways[tile]
        rows = prod(ceil(n / m) for n, m in zip(size, shape))
        return products * (ceil(rows / ROWS) * ROWS + FILTER_ROWS)
    return min((tile for tile in ways if (int16 or tile not in DEEP) and (tile % 10 < 4 or channels <= MOST_CHANNELS)), key=work)


class Products(NamedTuple):
    """What matrix products are computed in, by default fp32. Layers that have no code for `pairs` are computed as without."""

    int16: bool = False  # 16-bit integers; activations are then stored in 16 bits
    pairs: bool = False  # with int16: numbers split into two of bf16 (kernels/pairs.h) instead, activations as beside integers

    def of(self, in_channels: int, out_channels: int) -> "Products":
        return Products(self.int16, self.pairs and in_channels % PAIRS_OF[0] == 0 and out_channels % PAIRS_OF[1] == 0)


def stored_dtype(int16: bool) -> torch.dtype:
    """Of activations."""
    return torch.float16 if load_library().stored_bytes(int16) == 2 else torch.float32


class Layer:
    """A ConvNormNonlin whose output has `size` (D, H, W), or thereabouts."""

    def __init__(self, layer: ConvNormNonlin, size: Sequence[int], products: Products) -> None:
        library, conv, norm, int16 = load_library(), layer.conv, getattr(layer, "norm", None), products.int16
        self.kernel, self.stride, self.channels = conv.kernel_size, conv.stride, conv.out_channels
        self.in_channels, self.slope = conv.in_channels, _slope(getattr(layer, "nonlin", None))
        is_image = self.in_channels % library.lanes() > 0
        self.dtype, self.input_dtype = stored_dtype(int16), torch.float32 if is_image else stored_dtype(int16)
        self.tile = 1 if is_image else fastest_tile(self.kernel, self.stride, size, self.channels, int16)
        self.int16 = int16 and not is_image
        weight, self.bias = conv.weight.detach().float(), torch.zeros(self.channels) if conv.bias is None else own(conv.bias)
        self.normalises, self.eps = norm is not None, norm.eps if norm is not None else 0.0
        # a norm undoes a factor and a bias: without this factor, or with the bias, results might leave what fp16 holds, or use little of it
        self.gain = torch.ones(self.channels, dtype=torch.double)
        if int16 and self.normalises:
            self.gain = torch.exp2(weight.double().flatten(1).norm(dim=1).clamp_min(1e-30).log2().round())
            weight, self.bias = (weight / self.gain.view(-1, 1, 1, 1, 1)).float(), torch.zeros(self.channels)
        self.convolution = Convolution.of(self.kernel, self.stride, self.tile, self.int16, (self.in_channels, self.channels), self.dtype != self.input_dtype,
                                          products.of(self.in_channels, self.channels).pairs)
        self.filters, weight = torch.empty(library.transformed_size(self.convolution)), weight.contiguous()
        library.transform_filters(self.convolution, weight.data_ptr(), self.filters.data_ptr(), engine_threads())
        affine = norm is not None and norm.affine
        self.weight = norm.weight.detach().double() if affine else torch.ones(self.channels, dtype=torch.double)
        self.shift = norm.bias.detach().double() if affine else torch.zeros(self.channels, dtype=torch.double)

    def __call__(self, inputs: Sequence[Tensor], workspace: Workspace, residual: Tensor | None = None,
                 slope: float | None = None) -> Tensor:
        """inputs (D, H, W, C) count as one of all their channels. `residual` is added before the nonlinearity, that of `slope`."""
        library, threads, slope = load_library(), engine_threads(), self.slope if slope is None else slope
        size = inputs[0].shape[:3]
        assert sum(x.shape[3] for x in inputs) == self.in_channels
        assert all(x.dtype == self.input_dtype and x.is_contiguous() and x.shape[:3] == size for x in inputs)
        if self.normalises and prod(-(-n // s) for n, s in zip(size, self.stride)) == 1:
            raise InputError("The network is given so little that one voxel is left to normalise, which says nothing. Give it a larger window.")
        result = workspace.take(*(-(-n // s) for n, s in zip(size, self.stride)), self.channels, dtype=self.dtype)
        moments = torch.empty(2, self.channels, dtype=torch.double)
        library.convolve(self.convolution, ConvolutionData.of(inputs, self.filters, self.bias, result, moments), threads)
        scale, shift = torch.ones(self.channels), torch.zeros(self.channels)
        if self.normalises:
            mean, variance = moments
            double_scale = self.weight * self.gain * torch.rsqrt(self.gain**2 * variance + self.eps)
            scale, shift = double_scale.float(), (self.shift - mean * double_scale).float()
        assert residual is None or (residual.shape, residual.dtype) == (result.shape, result.dtype)
        library.scale_and_activate(Scaling(self.dtype == torch.float16, self.channels, result[..., 0].numel(), result.data_ptr(), scale.data_ptr(),
                                           shift.data_ptr(), None if residual is None else residual.data_ptr(), slope), threads)
        return result


class Stack:
    def __init__(self, stack: StackedConvBlocks, size: Sequence[int], products: Products) -> None:
        self.layers = [Layer(layer, size, products) for layer in stack.convs]
        self.in_channels, self.input_dtype = self.layers[0].in_channels, self.layers[0].input_dtype

    def __call__(self, inputs: Sequence[Tensor], workspace: Workspace) -> Tensor:
        x = self.layers[0](inputs, workspace)
        for layer in self.layers[1:]:
            before, x = x, layer([x], workspace)
            workspace.give(before)
        return x


class Block:
    """A ResidualBlock."""

    def __init__(self, block: ResidualBlock, size: Sequence[int], products: Products) -> None:
        self.layers = [Layer(layer, size, products) for layer in block.layers]
        self.stride = block.stride
        self.project = next((Layer(module, size, products) for module in block.skip if isinstance(module, ConvNormNonlin)), None)
        self.slope = _slope(block.nonlin)

    def __call__(self, inputs: Sequence[Tensor], workspace: Workspace) -> Tensor:
        x, = inputs
        skip, own = x, []
        if max(self.stride) > 1:
            skip = _average_pool(x, self.stride, workspace)
            own.append(skip)
        if self.project is not None:
            skip = self.project([skip], workspace)
            own.append(skip)
        for layer in self.layers[:-1]:
            x = layer([x], workspace)
            own.append(x)
        result = self.layers[-1]([x], workspace, residual=skip, slope=self.slope)
        workspace.give(*own)
        return result


def _average_pool(x: Tensor, stride: Sequence[int], workspace: Workspace) -> Tensor:
    result = workspace.take(*(n // s for n, s in zip(x.shape, stride)), x.shape[3], dtype=x.dtype)
    pooling = Pooling(x.dtype == torch.float16, x.shape[3], Axes(*x.shape[:3]), Axes(*stride), x.data_ptr(), result.data_ptr())
    load_library().average_pool(pooling, engine_threads())
    return result


class Upsampling:
    """A transposed convolution whose kernel is its stride."""

    def __init__(self, layer: nn.ConvTranspose3d, products: Products) -> None:
        library = load_library()
        self.stride, self.channels = layer.stride, layer.out_channels
        self.transposition = Transposition(*products.of(layer.in_channels, layer.out_channels), layer.in_channels, layer.out_channels, Axes(*layer.stride))
        weight, self.weights = layer.weight.detach().float().contiguous(), torch.empty(library.transposed_size(self.transposition))
        library.transform_transposed(self.transposition, weight.data_ptr(), self.weights.data_ptr())
        self.bias = torch.zeros(self.channels) if layer.bias is None else own(layer.bias)

    def __call__(self, x: Tensor, workspace: Workspace) -> Tensor:
        result = workspace.take(*(n * s for n, s in zip(x.shape, self.stride)), self.channels, dtype=x.dtype)
        data = TranspositionData(Axes(*x.shape[:3]), x.data_ptr(), self.weights.data_ptr(), self.bias.data_ptr(), result.data_ptr())
        load_library().convolve_transposed(self.transposition, data, engine_threads())
        return result


class LastLayer:
    """The 1x1x1 convolution to the labels."""

    def __init__(self, layer: nn.Conv3d) -> None:
        self.weights, self.bias = own(layer.weight).flatten(1), own(layer.bias)

    def __call__(self, x: Tensor) -> Tensor:
        """(D, H, W, C) -> logits (S, D, H, W), float32."""
        logits = torch.empty(len(self.bias), *x.shape[:3])
        load_library().segment(Segmentation(x.dtype == torch.float16, x.shape[3], len(self.bias), logits[0].numel(), x.data_ptr(), self.weights.data_ptr(),
                                            self.bias.data_ptr(), logits.data_ptr()), engine_threads())
        return logits
