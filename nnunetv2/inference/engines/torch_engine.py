"""The network in torch: CUDA and MPS with fp16 autocast, CPU with bf16 autocast, each in fp32 as well."""

import os

import torch
from torch import Tensor, nn

CUDA_BATCH = 8  # windows; 8 mirrored views of a ResEnc M patch stay below 8 GiB in fp16, and are halved where they do not


class TorchEngine:
    """Runs `network`, which returns `(seg_logits, class_logits or None)`; a list under deep supervision counts by its first.

    On CUDA the weights go to channels_last_3d, for which cuDNN has its tensor-core kernels. nnUNet_compile=true in the
    environment compiles the network, as upstream does.
    """

    name = "torch"

    def __init__(self, network: nn.Module, device: torch.device, half: bool, channels_last: bool | None = None) -> None:
        self.device, self.half = device, half
        self.precision = ("bf16" if device.type == "cpu" else "fp16") if half else "fp32"
        self.channels_last = device.type == "cuda" if channels_last is None else channels_last
        self.batch_size = CUDA_BATCH if device.type == "cuda" else 1
        self.network = network.to(device).eval()
        if os.environ.get("nnUNet_compile", "").lower() in ("true", "1", "t"):
            self.network = torch.compile(self.network)
        if self.channels_last:
            self.network.to(memory_format=self._memory_format(self.network))

    @staticmethod
    def _memory_format(network: nn.Module) -> torch.memory_format:
        is_3d = any(parameter.ndim == 5 for parameter in network.parameters())
        return torch.channels_last_3d if is_3d else torch.channels_last

    def in_full_precision(self) -> "TorchEngine":
        return TorchEngine(self.network, self.device, half=False, channels_last=self.channels_last)

    @torch.no_grad()
    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Halves the batch, for good, when the device's memory does not hold it."""
        try:
            return self._forward(x)
        except torch.cuda.OutOfMemoryError:
            if len(x) == 1:
                raise
        torch.cuda.empty_cache()
        self.batch_size = max(1, len(x) // 2)
        parts = [self(part) for part in x.split(self.batch_size)]
        return torch.cat([seg for seg, _ in parts]), None if parts[0][1] is None else torch.cat([cls for _, cls in parts])

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        dtype = torch.bfloat16 if self.device.type == "cpu" else torch.float16
        x = x.to(self.device, non_blocking=True)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last_3d if x.ndim == 5 else torch.channels_last)
        with torch.autocast(self.device.type, dtype=dtype, enabled=self.half):
            seg_logits, class_logits = self.network(x)
        if isinstance(seg_logits, (list, tuple)):
            seg_logits = seg_logits[0]
        return seg_logits.float(), None if class_logits is None else class_logits.float()
