"""The network in OpenVINO, on CPUs: up to twice as fast as torch in fp32, more in int8, and in bf16 where the CPU has AMX."""

import errno
import glob
import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import openvino
import torch
from torch import Tensor, nn

from dynamic_network_architectures.architectures.unet import finest_and_class
from nnunetv2.inference.engines import engine_threads
from nnunetv2.inference.engines.guard import check_expected
from nnunetv2.inference.engines.pool import Pool
from nnunetv2.utilities.checkpoint import stored_tensors
from nnunetv2.utilities.digests import are_intact, digests
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.leftovers import temporary_folder

if TYPE_CHECKING:
    from nnunetv2.inference.engines import Engine

CONVERSION = 1  # part of the cache key; raise it when conversion or the network's code changes what is computed
TOLERANCE = 1e-2  # largest difference between torch and OpenVINO in fp32, relative to the largest logit


@lru_cache
def openvino_core() -> openvino.Core:
    """The one Core of this process, which stays.

    Compiling a model sets a stack for signal handlers in the calling thread (sigaltstack; OpenVINO 2026.4). With several Cores that
    came and went, the end of a child process (SIGCHLD) ended this one as well, by a segmentation fault; with one that stays it does not.
    """
    return openvino.Core()


class _FlatOutputs(nn.Module):
    """One tensor or two, never None: tracing takes nothing else."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        seg_logits, class_logits = finest_and_class(self.network(x))
        return seg_logits if class_logits is None else (seg_logits, class_logits)


def cached_model_path(checkpoint: Path, architecture: dict, kind: str = "openvino") -> Path:
    """Where the converted `checkpoint` is kept: beside it, under a key that changes with its weights and architecture.

    kind: "openvino" for the network as it is, "int8" for the quantised one.
    """
    tensors = stored_tensors(checkpoint)
    # what a conversion gives may change with OpenVINO's version; a quantised model, once checked, stays as it is
    version = openvino.__version__ if kind == "openvino" else None
    content = json.dumps([tensors, architecture, version, CONVERSION], sort_keys=True, default=str)
    return checkpoint.with_name(f"{checkpoint.stem}.{kind}_{hashlib.sha256(content.encode()).hexdigest()[:16]}.xml")


def load_or_convert(
    build_network: Callable[[], nn.Module], input_channels: int, divisor: tuple[int, ...], cached: Path | None
) -> openvino.Model:
    """The model at `cached`, if it is as it was written, else the converted network, then kept there. RuntimeError if conversion changes the output."""
    if cached is not None and is_intact(cached):
        return openvino_core().read_model(cached)
    model = _convert(build_network().eval(), input_channels, divisor)
    if cached is not None:
        try:
            keep_model(model, cached)
        except OSError as error:
            warnings.warn(f"The converted model cannot be kept beside the checkpoint ({error}); it is converted anew each time.", stacklevel=2)
    return model


def _digests_path(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _files(path: Path) -> tuple[Path, Path]:
    return path, path.with_suffix(".bin")


def is_intact(path: Path) -> bool:
    """Whether the kept model `path` (.xml) is there and all its files are as they were written. OpenVINO may hang on weights cut short."""
    return are_intact(_digests_path(path), *_files(path))


@contextmanager
def without_telemetry() -> Iterator[None]:
    """OpenVINO and NNCF report each use to their makers and write an identity to ~/intel, unless they take it for a job of a CI."""
    before = {name: os.environ.get(name) for name in ("CI", "NNCF_CI")}
    os.environ.update(CI="true", NNCF_CI="1")
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _convert(network: nn.Module, input_channels: int, divisor: tuple[int, ...]) -> openvino.Model:
    """Trace with twice the smallest input, since a full patch takes a minute, and check at another size.

    Sizes that tracing froze into constants show at the second size.
    """
    flat = _FlatOutputs(network).eval()
    generator = torch.Generator().manual_seed(0)
    example = torch.randn((1, input_channels, *(2 * d for d in divisor)), generator=generator)
    other = torch.randn((1, input_channels, *(2 * d for d in divisor[:-1]), 3 * divisor[-1]), generator=generator)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer's remarks on every Python branch; the check below is the test of them
        try:
            traced = torch.jit.freeze(torch.jit.trace(flat, example, check_trace=False))  # convert_model's own tracing takes 7 times as long
            expected = flat(other)
        except (ValueError, TypeError, ArithmeticError, LookupError, AssertionError, NotImplementedError) as error:  # of networks of other packages
            raise RuntimeError(f"it does not take sizes {tuple(example.shape[2:])} and {tuple(other.shape[2:])}: {error}") from error
        size = openvino.PartialShape([-1, input_channels, *(-1 for _ in divisor)])
        with without_telemetry():
            model = openvino.convert_model(traced, input=[(size, openvino.Type.f32)])
    got = OpenVINOEngine(model, half=False)(other)
    for name, a, b in zip(("segmentation", "class"), expected if isinstance(expected, tuple) else (expected,), got):
        check_expected(a, name)
        difference = float((a - b).abs().max())
        if not difference <= TOLERANCE * max(1.0, float(a.abs().max())):
            raise RuntimeError(f"its {name} logits differ from torch's by {difference:.3g} at size {tuple(other.shape[2:])}")
    return model


def keep_model(model: openvino.Model, path: Path) -> None:
    """Write path (.xml), its .bin and their digests, those last, so that a model counts as whole or not at all; drop outdated ones of its kind.

    OSError if they are not whole afterwards, as on a full disk.
    """
    with temporary_folder(path.parent, "openvino") as folder:
        temporary = folder / path.name
        openvino.save_model(model, temporary, compress_to_fp16=False)
        _check_whole(temporary, path)
        _digests_path(temporary).write_text(digests(*_files(temporary)), encoding="utf-8")
        for suffix in (".bin", ".xml", ".sha256"):
            os.replace(temporary.with_suffix(suffix), path.with_suffix(suffix))
    prefix = path.stem.rpartition("_")[0]
    for outdated in path.parent.glob(f"{glob.escape(prefix)}_*"):
        if outdated.stem != path.stem:
            outdated.unlink(missing_ok=True)


def _check_whole(written: Path, path: Path) -> None:
    """OSError unless `written` (.xml) ends as it should and its .bin holds all the constants that it lists."""
    text = written.read_text(encoding="utf-8")
    end = max((int(offset) + int(size) for offset, size in re.findall(r'offset="(\d+)" size="(\d+)"', text)), default=0)
    if not text.rstrip().endswith("</net>") or written.with_suffix(".bin").stat().st_size < end:
        raise OSError(errno.ENOSPC, "the converted model was written in part only", str(path))


class OpenVINOEngine:
    """Runs a converted network of dynamic size, in several threads at once if they call it. `half` is taken back, with a warning, where the CPU has no bf16."""

    name = "openvino"
    batch_size = 1  # CPU cores are busy with one window

    def __init__(self, model: openvino.Model, half: bool) -> None:
        core = openvino_core()
        if half and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            warnings.warn("This CPU has no bf16 instructions; OpenVINO runs in fp32.", stacklevel=2)
            half = False
        self.model, self.precision = model, "bf16" if half else "fp32"
        self.compiled = core.compile_model(model, "CPU", {
            "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
            "INFERENCE_NUM_THREADS": engine_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        })
        self._requests = Pool(self.compiled.create_infer_request)

    def in_full_precision(self) -> "OpenVINOEngine":
        return OpenVINOEngine(self.model, half=False)

    def __call__(self, x: Tensor, classify: bool = True) -> tuple[Tensor, Tensor | None]:
        """The model gives both outputs, whether the class is wanted or not."""
        with self._requests.borrow() as request:  # holds inputs and outputs of a pass
            results = request.infer([x.contiguous().numpy()], share_inputs=True, share_outputs=False)
            outputs = [torch.from_numpy(output) for output in results.to_tuple()]
        return outputs[0].float(), outputs[1].float() if len(outputs) > 1 else None

    def classify(self, x: Tensor, seg_logits: Tensor) -> Tensor | None:
        """By the model's own segmentation of x: the converted model takes no other."""
        return self(x)[1]


class Int8Engine(OpenVINOEngine):
    """Runs a quantised model, whose file says itself which operations are in int8; the others stay in fp32."""

    def __init__(self, quantised_model: Path | openvino.Model, full_precision: Callable[[], "Engine"]) -> None:
        if isinstance(quantised_model, Path):
            if not is_intact(quantised_model):
                raise InputError(f"{quantised_model} or its weights (.bin) are not as they were written. Run nnUNetv2_quantize again, "
                                 "or choose another --precision.")
            quantised_model = openvino_core().read_model(quantised_model)
        super().__init__(quantised_model, half=False)
        self.precision, self._full_precision = "int8", full_precision

    def in_full_precision(self) -> "Engine":
        return self._full_precision()
