"""3D U-Nets on CPUs with Winograd convolutions: about a quarter of the multiplications that the layers have by definition.

In fp32, or with 16-bit integers where the CPU multiplies twice as many of them at a time (AVX-512 with VNNI); activations are then
kept in fp16.
"""

import ctypes
import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import ceil, prod
from pathlib import Path

import torch
from torch import Tensor, nn

import dynamic_network_architectures
from dynamic_network_architectures.architectures.unet import UNet, finest_and_class
from dynamic_network_architectures.building_blocks.conv_blocks import ConvNormNonlin, StackedConvBlocks
from dynamic_network_architectures.building_blocks.encoders import PlainConvEncoder, ResidualEncoder
from dynamic_network_architectures.building_blocks.residual import ResidualBlock
from nnunetv2.inference.engines import engine_threads
from nnunetv2.inference.engines.guard import check_expected, check_size
from nnunetv2.inference.engines.pool import Pool
from nnunetv2.inference.engines.winograd_library import checked_file, load_library
from nnunetv2.utilities.errors import InputError

# What winograd.cpp has beside unfolding, by kernel and stride: tiles, as their depth and width in digits -> matrix products of a tile, its outputs
# (D, H, W). DEEP ones are there for int16 alone: they round more, and fp32 is to keep upstream's masks.
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
MOST_CHANNELS = 256  # above, the filters of the largest tiles gain no time and would take hundreds of megabytes more
TOLERANCE = {"fp32": 1e-3, "int16": 5e-2}  # largest difference to torch relative to the largest logit; rounding is below a tenth of it


class UnsupportedNetwork(RuntimeError):
    """A layer or size has no code in winograd.cpp."""


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    """Of a tensor that has a name: nothing else keeps it."""
    return ctypes.c_void_p(tensor.data_ptr())


def _own(tensor: Tensor) -> Tensor:
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


def stored_dtype(int16: bool) -> torch.dtype:
    """Of activations."""
    return torch.float16 if load_library().stored_bytes(int16) == 2 else torch.float32


class _Layer:
    """A ConvNormNonlin whose output has `size` (D, H, W), or thereabouts."""

    def __init__(self, layer: ConvNormNonlin, size: Sequence[int], int16: bool) -> None:
        library, conv, norm = load_library(), layer.conv, getattr(layer, "norm", None)
        self.kernel, self.stride, self.channels = conv.kernel_size, conv.stride, conv.out_channels
        self.in_channels, self.slope = conv.in_channels, _slope(getattr(layer, "nonlin", None))
        is_image = self.in_channels % library.lanes() > 0
        self.dtype, self.input_dtype = stored_dtype(int16), torch.float32 if is_image else stored_dtype(int16)
        self.tile = 1 if is_image else fastest_tile(self.kernel, self.stride, size, self.channels, int16)
        self.int16 = int16 and not is_image
        floats = library.transformed_size(*self.kernel, *self.stride, self.tile, self.int16, self.in_channels, self.channels)
        weight, self.bias = conv.weight.detach().float(), torch.zeros(self.channels) if conv.bias is None else _own(conv.bias)
        self.normalises, self.eps = norm is not None, norm.eps if norm is not None else 0.0
        # a norm undoes a factor and a bias: without this factor, or with the bias, results might leave what fp16 holds, or use little of it
        self.gain = torch.ones(self.channels, dtype=torch.double)
        if int16 and self.normalises:
            self.gain = torch.exp2(weight.double().flatten(1).norm(dim=1).clamp_min(1e-30).log2().round())
            weight, self.bias = (weight / self.gain.view(-1, 1, 1, 1, 1)).float(), torch.zeros(self.channels)
        self.filters, weight = torch.empty(floats), weight.contiguous()
        library.transform_filters(*self.kernel, *self.stride, self.tile, self.int16, _pointer(weight), _pointer(self.filters),
                                  self.in_channels, self.channels, engine_threads())
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
        pointers = (ctypes.c_void_p * len(inputs))(*(x.data_ptr() for x in inputs))
        channels = (ctypes.c_int * len(inputs))(*(x.shape[3] for x in inputs))
        library.convolve(*self.kernel, *self.stride, self.tile, self.int16, self.dtype != self.input_dtype, pointers, channels, len(inputs), *size,
                         _pointer(self.filters), _pointer(self.bias), self.channels, _pointer(result), _pointer(moments), threads)
        scale, shift = torch.ones(self.channels), torch.zeros(self.channels)
        if self.normalises:
            mean, variance = moments
            double_scale = self.weight * self.gain * torch.rsqrt(self.gain**2 * variance + self.eps)
            scale, shift = double_scale.float(), (self.shift - mean * double_scale).float()
        assert residual is None or (residual.shape, residual.dtype) == (result.shape, result.dtype)
        added = None if residual is None else _pointer(residual)
        library.scale_and_activate(self.dtype == torch.float16, _pointer(result), _pointer(scale), _pointer(shift), added,
                                   ctypes.c_float(slope), ctypes.c_long(result[..., 0].numel()), self.channels, threads)
        return result


class _Stack:
    def __init__(self, stack: StackedConvBlocks, size: Sequence[int], int16: bool) -> None:
        self.layers = [_Layer(layer, size, int16) for layer in stack.convs]
        self.in_channels, self.input_dtype = self.layers[0].in_channels, self.layers[0].input_dtype

    def __call__(self, inputs: Sequence[Tensor], workspace: Workspace) -> Tensor:
        x = self.layers[0](inputs, workspace)
        for layer in self.layers[1:]:
            before, x = x, layer([x], workspace)
            workspace.give(before)
        return x


class _Block:
    """A ResidualBlock."""

    def __init__(self, block: ResidualBlock, size: Sequence[int], int16: bool) -> None:
        self.layers = [_Layer(layer, size, int16) for layer in block.layers]
        self.stride = block.stride
        self.project = next((_Layer(module, size, int16) for module in block.skip if isinstance(module, ConvNormNonlin)), None)
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
    load_library().average_pool(x.dtype == torch.float16, _pointer(x), x.shape[3], *x.shape[:3], *stride, _pointer(result), engine_threads())
    return result


class _Upsampling:
    """A transposed convolution whose kernel is its stride."""

    def __init__(self, layer: nn.ConvTranspose3d, int16: bool) -> None:
        library = load_library()
        self.stride, self.channels, self.int16 = layer.stride, layer.out_channels, int16
        weight, sizes = layer.weight.detach().float().contiguous(), (layer.in_channels, layer.out_channels, prod(layer.stride))
        self.weights = torch.empty(library.transposed_size(int16, *sizes))
        library.transform_transposed(int16, _pointer(weight), _pointer(self.weights), *sizes)
        self.bias = torch.zeros(self.channels) if layer.bias is None else _own(layer.bias)

    def __call__(self, x: Tensor, workspace: Workspace) -> Tensor:
        result = workspace.take(*(n * s for n, s in zip(x.shape, self.stride)), self.channels, dtype=x.dtype)
        load_library().convolve_transposed(self.int16, _pointer(x), x.shape[3], *x.shape[:3], _pointer(self.weights), _pointer(self.bias), self.channels,
                                           *self.stride, _pointer(result), engine_threads())
        return result


class WinogradUNet:
    """What `network`, a U-Net of ours in eval mode, computes for one item; fastest for those of about `patch_size`.

    int16: products of 16-bit integers instead of fp32, but in the first and the last layer. Its filters are copied, so it may go
    afterwards; only its `class_head` stays in use. UnsupportedNetwork (a RuntimeError) names the first layer that has no code here.
    """

    def __init__(self, network: nn.Module, patch_size: Sequence[int], int16: bool = False) -> None:
        check_supported(network)
        encoder, decoder = network.encoder, network.decoder
        sizes = [list(patch_size)]
        for stride in encoder.strides:
            sizes.append([n // s for n, s in zip(sizes[-1], stride)])
        if isinstance(encoder, ResidualEncoder):
            self.stages = [[_Block(block, size, int16) for block in stage.blocks] for stage, size in zip(encoder.stages, sizes[1:])]
            self.stages[0].insert(0, _Stack(encoder.stem, sizes[0], int16))
        else:
            self.stages = [[_Stack(stage[-1], size, int16)] for stage, size in zip(encoder.stages, sizes[1:])]
        self.upsampling = [_Upsampling(layer, int16) for layer in decoder.transpconvs]
        self.decoder = [_Stack(stage, size, int16) for stage, size in zip(decoder.stages, sizes[-2:0:-1])]
        segmentation = decoder.seg_layers[-1]
        self.seg_weight, self.seg_bias = _own(segmentation.weight).flatten(1), _own(segmentation.bias)
        self.class_head = network.class_head
        self.in_channels = self.stages[0][0].in_channels
        self.divisor = tuple(prod(axis) for axis in zip(*encoder.strides))
        self.workspaces = Pool(Workspace)

    def _encode(self, image: Tensor, workspace: Workspace, n_stages: int | None = None) -> list[Tensor]:
        """(C, D, H, W) -> the encoder's features of its first `n_stages` stages, of all by default; finest first."""
        x = workspace.take(*image.shape[1:], len(image), dtype=self.stages[0][0].input_dtype).copy_(image.movedim(0, -1))
        skips: list[Tensor] = []
        for stage in self.stages[:n_stages]:
            for layer in stage:
                before, x = x, layer([x], workspace)
                if before is not (skips[-1] if skips else None):
                    workspace.give(before)
            skips.append(x)
        return skips

    def _classify(self, of_classes: Callable[..., Tensor], skips: Sequence[Tensor], seg_logits: Tensor, image: Tensor) -> Tensor:
        features = [skip.movedim(-1, 0)[None] for skip in skips]  # (1, C, D, H, W); the head makes fp32 of what it uses
        return of_classes(features, seg_logits[None], None, 0.0, image[None])[0]

    def classify(self, image: Tensor, seg_logits: Tensor) -> Tensor:
        """Class logits (n,) of an image (C, D, H, W) whose segmentation is known, (S, D, H, W). Needs a class head."""
        check_size(image.shape, self.divisor, self.in_channels)
        with self.workspaces.borrow(image.shape) as workspace:
            skips = self._encode(image, workspace, self.class_head.n_stages)
            classes = self._classify(self.class_head, skips, seg_logits, image)
            workspace.give(*(skip for skip in skips))
        return classes

    def __call__(self, image: Tensor, of_classes: Callable[..., Tensor] | None) -> tuple[Tensor, Tensor | None]:
        """(C, D, H, W) -> seg_logits (S, D, H, W), and (n,) of what `of_classes`, the head or a method of it, gives; None without.

        InputError for channels or sizes that the network does not take. Threads may call it at once: each pass has its own workspace.
        """
        check_size(image.shape, self.divisor, self.in_channels)
        with self.workspaces.borrow(image.shape) as workspace:  # buffers of other sizes would add up
            return self._pass(image, of_classes, workspace)

    def _pass(self, image: Tensor, of_classes: Callable[..., Tensor] | None, workspace: Workspace) -> tuple[Tensor, Tensor | None]:
        skips = self._encode(image, workspace)
        x = skips[-1]
        for skip, upsampling, stage in zip(skips[-2::-1], self.upsampling, self.decoder):
            upsampled = upsampling(x, workspace)
            if x is not skips[-1]:
                workspace.give(x)
            x = stage([upsampled, skip], workspace)
            workspace.give(upsampled)
        seg_logits = torch.empty(len(self.seg_bias), *x.shape[:3])
        load_library().segment(x.dtype == torch.float16, _pointer(x), _pointer(self.seg_weight), _pointer(self.seg_bias), len(self.seg_bias),
                               ctypes.c_long(seg_logits[0].numel()), x.shape[3], _pointer(seg_logits), engine_threads())
        workspace.give(x)
        classes = None if of_classes is None else self._classify(of_classes, skips, seg_logits, image)
        workspace.give(*(skip for skip in skips))
        return seg_logits, classes


def _code_of(network: nn.Module) -> list[str]:
    """The sources of the network and of what computes it here: an edit of either may make them differ."""
    files = {Path(__file__), Path(inspect.getfile(type(network))), *Path(dynamic_network_architectures.__file__).parent.rglob("*.py")}
    return [file.read_text(encoding="utf-8") for file in sorted(files)]


class WinogradEngine:
    """Runs a WinogradUNet, item by item."""

    name, batch_size = "winograd", 1

    def __init__(self, build_network: Callable[[], nn.Module], input_channels: int, divisor: Sequence[int], patch_size: Sequence[int],
                 int16: bool = False, identity: str | None = None) -> None:
        """RuntimeError if the network has no code here, nothing can be compiled, or what comes out is not what torch computes.

        The last is looked at once for an `identity`, which tells network and weights; every time without one.
        """
        load_library()  # before weights are read for nothing
        self.precision = "int16" if int16 else "fp32"
        self._in_full_precision = lambda: WinogradEngine(build_network, input_channels, divisor, patch_size, identity=identity)
        network = build_network().eval()
        self.network = WinogradUNet(network, patch_size, int16)
        checked = None if identity is None else checked_file(identity, self.precision, tuple(patch_size), _code_of(network))
        if checked is None or not checked.is_file():
            self._check(network, input_channels, divisor)
            if checked is not None:
                with suppress(OSError):  # then it is checked again the next time
                    checked.parent.mkdir(exist_ok=True)
                    checked.touch()

    @torch.no_grad()
    def _check(self, network: nn.Module, input_channels: int, divisor: Sequence[int]) -> None:
        # norms need more voxels than one in the deepest stage; four do, and every voxel more costs a start's time
        size = (input_channels, divisor[0], *(2 * d for d in divisor[1:]))
        noise, step = torch.randn(size, generator=torch.Generator().manual_seed(0)), torch.zeros(size)
        step[..., divisor[-1]:] = 3
        # where noise adds up to little, sums of constant and stepped images add up to much; a little noise, lest norms divide rounding by nothing
        x = torch.stack([noise, 1 + 0.1 * noise, step + 0.1 * noise])
        expected_logits = finest_and_class(network(x))
        for name, expected in zip(("segmentation", "class"), expected_logits):
            check_expected(expected, name)
        for name, expected, got in zip(("segmentation", "class"), expected_logits, self(x)):
            difference = 0.0 if expected is None else float((expected - got).abs().max() / expected.abs().max().clamp_min(1))
            if not difference <= TOLERANCE[self.precision]:
                raise RuntimeError(f"its {name} logits differ from torch's by {difference:.3g} of the largest")

    def in_full_precision(self) -> "WinogradEngine":
        return self if self.precision == "fp32" else self._in_full_precision()

    @torch.no_grad()
    def __call__(self, x: Tensor, classify: bool = True) -> tuple[Tensor, Tensor | None]:
        results = [self.network(item, self.network.class_head if classify else None) for item in x.float()]
        seg_logits = torch.stack([seg for seg, _ in results])
        return seg_logits, None if results[0][1] is None else torch.stack([classes for _, classes in results])

    @torch.no_grad()
    def classify(self, x: Tensor, seg_logits: Tensor) -> Tensor | None:
        if self.network.class_head is None:
            return None
        return torch.stack([self.network.classify(item, seg) for item, seg in zip(x.float(), seg_logits.float())])

    @torch.no_grad()
    def describe(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What UNet.describe gives: segmentation logits (B, S, D, H, W) and the head's features (B, F) of x (B, C, D, H, W)."""
        results = [self.network(item, self.network.class_head.features) for item in x.float()]
        return torch.stack([seg for seg, _ in results]), torch.stack([features for _, features in results])

    def class_features(self, x: Tensor) -> Tensor:
        return self.describe(x)[1]
