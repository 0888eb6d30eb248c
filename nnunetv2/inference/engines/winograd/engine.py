"""3D U-Nets on CPUs with Winograd convolutions: about a quarter of the multiplications that the layers have by definition.

In fp32; or with pairs of bf16 (AMX) or 16-bit integers (AVX-512 with VNNI) where the CPU multiplies more of them at a time. Activations
are then kept in fp16.
"""

import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn

import dynamic_network_architectures
from dynamic_network_architectures.architectures.unet import finest_and_class
from dynamic_network_architectures.building_blocks.encoders import ResidualEncoder
from nnunetv2.inference.engines.guard import check_expected, check_size
from nnunetv2.inference.engines.pool import Pool
from nnunetv2.inference.engines.winograd.layers import Block, LastLayer, Products, Stack, Upsampling, Workspace, check_supported
from nnunetv2.inference.engines.winograd.library import checked_file, load_library

TOLERANCE = {"fp32": 1e-3, "bf16x3": 1e-2, "int16": 5e-2}  # largest difference to torch relative to the largest logit; rounding is below a tenth of it


class WinogradUNet:
    """What `network`, a U-Net of ours in eval mode, computes for one item; fastest for those of about `patch_size`.

    products: what they are computed in, but in the first and the last layer. Its filters are copied, so it may go
    afterwards; only its `class_head` stays in use. UnsupportedNetwork (a RuntimeError) names the first layer that has no code here.
    """

    def __init__(self, network: nn.Module, patch_size: Sequence[int], products: Products = Products()) -> None:
        check_supported(network)
        encoder, decoder = network.encoder, network.decoder
        sizes = [list(patch_size)]
        for stride in encoder.strides:
            sizes.append([n // s for n, s in zip(sizes[-1], stride)])
        if isinstance(encoder, ResidualEncoder):
            self.stages = [[Block(block, size, products) for block in stage.blocks] for stage, size in zip(encoder.stages, sizes[1:])]
            self.stages[0].insert(0, Stack(encoder.stem, sizes[0], products))
        else:
            self.stages = [[Stack(stage[-1], size, products)] for stage, size in zip(encoder.stages, sizes[1:])]
        self.upsampling = [Upsampling(layer, products) for layer in decoder.transpconvs]
        self.decoder = [Stack(stage, size, products) for stage, size in zip(decoder.stages, sizes[-2:0:-1])]
        self.last = LastLayer(decoder.seg_layers[-1])
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

    def classify(self, image: Tensor, seg_logits: Tensor, of_classes: Callable[..., Tensor] | None = None) -> Tensor:
        """(n,) of what `of_classes`, by default the head, gives of an image (C, D, H, W) whose segmentation is known, (S, D, H, W)."""
        check_size(image.shape, self.divisor, self.in_channels)
        with self.workspaces.borrow(image.shape) as workspace:
            skips = self._encode(image, workspace, self.class_head.n_stages)
            classes = self._classify(of_classes or self.class_head, skips, seg_logits, image)
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
        seg_logits = self.last(x)
        workspace.give(x)
        classes = None if of_classes is None else self._classify(of_classes, skips, seg_logits, image)
        workspace.give(*(skip for skip in skips))
        return seg_logits, classes


def _code_of(network: nn.Module) -> list[str]:
    """The sources of the network and of what computes it here: an edit of either may make them differ."""
    files = {*Path(__file__).parent.glob("*.py"), Path(inspect.getfile(type(network))), *Path(dynamic_network_architectures.__file__).parent.rglob("*.py")}
    return [file.read_text(encoding="utf-8") for file in sorted(files)]


class WinogradEngine:
    """Runs a WinogradUNet, item by item."""

    name, batch_size = "winograd", 1

    def __init__(self, build_network: Callable[[], nn.Module], input_channels: int, divisor: Sequence[int], patch_size: Sequence[int],
                 int16: bool = False, identity: str | None = None, pairs: bool = False) -> None:
        """RuntimeError if the network has no code here, nothing can be compiled, or what comes out is not what torch computes.

        The last is looked at once for an `identity`, which tells network and weights; every time without one.

        int16: activations are stored in 16 bits, and products are of 16-bit integers, or with `pairs`, where this process may use AMX
        tiles, of split numbers of bf16.
        """
        pairs = pairs and bool(load_library().has_tiles())  # loaded before weights are read for nothing
        self.precision = "bf16x3" if pairs else "int16" if int16 else "fp32"
        self._in_full_precision = lambda: WinogradEngine(build_network, input_channels, divisor, patch_size, identity=identity)
        network = build_network().eval()
        self.network = WinogradUNet(network, patch_size, Products(int16, pairs))
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

    @torch.no_grad()
    def features_under(self, x: Tensor, seg_logits: Tensor) -> Tensor:
        features = self.network.class_head.features
        return torch.stack([self.network.classify(item, seg, features) for item, seg in zip(x.float(), seg_logits.float())])

    def class_features(self, x: Tensor) -> Tensor:
        return self.describe(x)[1]
