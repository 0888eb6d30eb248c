"""What runs the network: torch on any device, Winograd convolutions or OpenVINO on CPUs.

An engine maps a batch (B, C, D, H, W) float32 to `(seg_logits (B, S, D, H, W), class_logits (B, n) or None)`, both float32.
Whoever does not need the class says so (`classify=False`), and an engine that can leaves the class head out. Where the segmentation
is known, `classify` gives the class logits (B, n) alone, for a part of the work.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from nnunetv2.configuration import available_cores
from nnunetv2.inference.engines.guard import GuardedEngine
from nnunetv2.inference.modes import cpu_has_fast_bf16, cpu_has_fast_int16

CHOICES = ("auto", "torch", "openvino", "winograd")


class Engine(Protocol):
    """`precision`: fp32, fp16, bf16, bf16x3 (split into two of bf16), int16 or int8, what it computes in. `batch_size`: how many windows it wants at once."""

    name: str
    precision: str
    batch_size: int

    def __call__(self, x: Tensor, classify: bool = True) -> tuple[Tensor, Tensor | None]: ...

    def classify(self, x: Tensor, seg_logits: Tensor) -> Tensor | None: ...

    def in_full_precision(self) -> "Engine": ...


def engine_threads() -> int:
    """Threads that an engine on the CPU uses: torch's number, but no more than this process may keep busy."""
    return min(torch.get_num_threads(), available_cores())


def make_engine(
    build_network: Callable[[], nn.Module],
    device: torch.device,
    precision: str,
    wish: str = "auto",
    input_channels: int = 1,
    divisor: tuple[int, ...] = (1, 1, 1),
    cached_model: Path | None = None,
    quantised_model: Path | None = None,
    patch_size: tuple[int, ...] = (64, 128, 128),
    identity: str | None = None,
    model: str = "the network",
) -> Engine:
    """The engine `wish`, guarded (GuardedEngine). "auto" is the fastest that serves: on a CPU winograd, else OpenVINO, else torch.

    precision: "fp32", "half" (what engine and device have: fp16, bf16, bf16x3 or int16), or "int8", which only OpenVINO with a
    `quantised_model` (.xml) has. In half "auto" takes winograd only where `cpu_has_fast_int16`.
    `build_network` gives a network that the engine may change on a GPU, another one each time. It is called only when the weights are
    needed: not when OpenVINO finds `cached_model`, its .xml beside the checkpoint. `patch_size` is what it will be fast for;
    `identity` tells network and weights, so that an engine need not check again what it has checked; `model` names them in errors.
    Where an engine cannot serve, the next one does, and a warning says why, once in a process.
    """
    if wish not in CHOICES:
        raise ValueError(f"engine is {wish!r}; choose one of {', '.join(CHOICES)}.")
    if precision == "int8":
        if wish in ("torch", "winograd") or device.type != "cpu" or quantised_model is None:
            raise ValueError(f"int8 runs in OpenVINO on the CPU, with a model that nnUNetv2_quantize has made; the engine asked for is "
                             f"{wish}, the device {device.type}.")
        from nnunetv2.inference.engines.openvino_engine import Int8Engine

        return GuardedEngine(Int8Engine(quantised_model, lambda: make_engine(
            build_network, device, "fp32", wish, input_channels, divisor, cached_model, patch_size=patch_size, identity=identity, model=model)),
            divisor, model)
    engine: Engine | None = None
    passed_over: dict[str, str] = {}
    half_in_winograd = wish == "winograd" or cpu_has_fast_int16()
    if device.type == "cpu" and wish in ("auto", "winograd") and (precision == "fp32" or half_in_winograd):
        from nnunetv2.inference.engines.winograd.engine import WinogradEngine
        from nnunetv2.inference.engines.winograd.layers import UnsupportedNetwork

        try:
            engine = WinogradEngine(build_network, input_channels, divisor, patch_size, int16=precision == "half", identity=identity,
                                    pairs=precision == "half" and cpu_has_fast_bf16())
        except UnsupportedNetwork as error:
            passed_over["winograd"] = f"the network has no code there: {error}"
        except RuntimeError as error:
            passed_over["winograd"] = str(error)
    if device.type == "cpu" and engine is None and wish != "torch":
        try:
            from nnunetv2.inference.engines.openvino_engine import OpenVINOEngine, load_or_convert

            engine = OpenVINOEngine(load_or_convert(build_network, input_channels, divisor, cached_model), precision == "half")
        except ImportError as error:
            passed_over["OpenVINO"] = f"it is not installed ({error}); pip install openvino"
        except RuntimeError as error:  # OpenVINO's conversion, compilation and our check all raise this
            passed_over["OpenVINO"] = f"the network cannot be converted: {error}"
    if device.type != "cpu" and wish not in ("auto", "torch"):
        passed_over[wish] = f"it runs on the CPU and the device is {device.type}"
    if engine is None:
        from nnunetv2.inference.engines.torch_engine import TorchEngine

        engine = TorchEngine(build_network(), device, precision == "half", build_network)
    for name, reason in passed_over.items():
        warnings.warn(f"{name} is not used, {engine.name} is: {reason}.", stacklevel=2)
    return GuardedEngine(engine, divisor, model)
