"""The network in torch: CUDA and MPS with fp16 autocast, CPU with bf16 autocast, each in fp32 as well."""

import os
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from dynamic_network_architectures.architectures.cpu_layout import lay_out_for_cpu, to_channels_last
from dynamic_network_architectures.architectures.unet import UNet, finest_and_class
from dynamic_network_architectures.building_blocks.conv_blocks import ConvNormNonlin
from dynamic_network_architectures.building_blocks.norm_nonlin import CHANNELS_LAST
from nnunetv2.inference.engines.cuda_graph import RecordedCalls, beside_recordings


class _ChannelsLastNorm:
    """Instance normalisation of one item as batch normalisation over its voxels, which is the same.

    cuDNN's batch normalisation takes channels-last tensors as they are. torch's instance normalisation copies them to the other
    layout, and the next convolution copies them back, which took 13 of the 30 ms of a ResEnc M's window on an H100.
    """

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 1:
            return super().forward(x)
        return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)


class ChannelsLastNorm2d(_ChannelsLastNorm, nn.InstanceNorm2d): ...


class ChannelsLastNorm3d(_ChannelsLastNorm, nn.InstanceNorm3d): ...


CHANNELS_LAST_NORMS = {nn.InstanceNorm2d: ChannelsLastNorm2d, nn.InstanceNorm3d: ChannelsLastNorm3d}


def halve_convolutions(network: nn.Module) -> None:
    """Keep the weights of convolutions in fp16, in place: what autocast makes of them in every pass, in half the memory."""
    for module in network.modules():
        if isinstance(module, _ConvNd):
            module.half()


def prepare_for_cuda(network: nn.Module) -> None:
    """Change `network`, in place, into one that computes the same faster on tensor cores, one item at a time."""
    for module in network.modules():
        if type(module) in CHANNELS_LAST_NORMS and not module.track_running_stats:
            module.__class__ = CHANNELS_LAST_NORMS[type(module)]  # in its place: a layer lists its norm under two names
    for module in network.modules():
        if isinstance(module, ConvNormNonlin) and len(module.all_modules) > 1 and isinstance(module.all_modules[1], _ChannelsLastNorm):
            module.conv.bias = None  # the norm subtracts it again; cuDNN adds it in a pass of its own
    to_channels_last(network)


class TorchEngine:
    """Runs `network`, which returns its segmentation or `(seg_logits, class_logits)`; a list under deep supervision counts by its first.

    On a CPU in `half` the network is laid out for it. On CUDA it is changed more (`prepare_for_cuda`), calls of a shape that comes often are recorded (RecordedCalls), and
    one window goes through at a time: more at once are no faster and take as many times the memory. nnUNet_compile=true in the
    environment compiles the network, as upstream does.
    """

    name, batch_size = "torch", 1

    def __init__(self, network: nn.Module, device: torch.device, half: bool, rebuild: Callable[[], nn.Module] | None = None) -> None:
        """rebuild: gives the network anew; with it a GPU keeps convolutions in fp16 alone for `half`."""
        self.device, self.half, self._rebuild = device, half, rebuild
        if device.type == "cuda" and half and rebuild is not None:
            halve_convolutions(network)  # before it goes to the GPU
        self.precision = ("bf16" if device.type == "cpu" else "fp16") if half else "fp32"
        self.network = network.to(device).eval()
        if device.type == "cuda":
            prepare_for_cuda(self.network)
        elif device.type == "cpu" and half:
            lay_out_for_cpu(self.network)
        self._head_is_optional = isinstance(network, UNet)
        self._forward = self._compute
        if os.environ.get("nnUNet_compile", "").lower() in ("true", "1", "t"):
            self._run = torch.compile(self.network)
        else:
            self._run = self.network
            if device.type == "cuda":
                self._forward = RecordedCalls(self._compute)

    def in_full_precision(self) -> "TorchEngine":
        return TorchEngine(self.network if self._rebuild is None else self._rebuild(), self.device, half=False)

    @torch.no_grad()
    def __call__(self, x: Tensor, classify: bool = True) -> tuple[Tensor, Tensor | None]:
        """A batch that the device's memory does not hold goes through item by item."""
        x = x.to(self.device, non_blocking=True)
        try:
            return self._forward(x, classify)
        except torch.cuda.OutOfMemoryError:
            if len(x) == 1:
                raise
        torch.cuda.empty_cache()
        parts = [self._forward(item, classify) for item in x.split(1)]
        return torch.cat([seg for seg, _ in parts]), None if parts[0][1] is None else torch.cat([cls for _, cls in parts])

    @torch.no_grad()
    def classify(self, x: Tensor, seg_logits: Tensor) -> Tensor | None:
        """A network that is none of ours classifies by its own segmentation of x."""
        if not self._head_is_optional:
            return self(x)[1]
        if self.network.class_head is None:
            return None
        gpu = next(self.network.parameters()).device
        return beside_recordings(gpu, lambda: self._classify(x, seg_logits))  # a whole case, beside what is recorded of its windows

    def _classify(self, x: Tensor, seg_logits: Tensor) -> Tensor:
        x = self._laid_out(x.to(self.device, non_blocking=True))
        with self._autocast():
            return self.network.classify(x, seg_logits.to(self.device, non_blocking=True)).float()

    def _laid_out(self, x: Tensor) -> Tensor:
        if self.device.type != "cuda":
            return x
        return x.contiguous(memory_format=CHANNELS_LAST[x.ndim])

    def _autocast(self) -> torch.autocast:
        dtype = torch.bfloat16 if self.device.type == "cpu" else torch.float16
        # no weight serves twice in a pass, so a cache of their casts would only hold memory
        return torch.autocast(self.device.type, dtype=dtype, enabled=self.half, cache_enabled=False)

    def _compute(self, x: Tensor, classify: bool) -> tuple[Tensor, Tensor | None]:
        x = self._laid_out(x)
        with self._autocast():
            seg_logits, class_logits = finest_and_class(self._run(x) if classify or not self._head_is_optional else self._run(x, classify=False))
        return seg_logits.float(), None if class_logits is None or not classify else class_logits.float()
