"""What stands between an engine and those who use it: no size that the network cannot take, no logits that are no numbers."""

import threading
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nnunetv2.utilities.errors import InputError

if TYPE_CHECKING:
    from nnunetv2.inference.engines import Engine


class NotFinite(FloatingPointError, InputError):
    """NaN or infinity in what a network is given, or in what it gives."""


def check_size(shape: Sequence[int], divisor: Sequence[int], channels: int | None = None) -> None:
    """InputError unless `shape` (C, *spatial) has as many axes as `divisor`, is divided by it, and has `channels` (None: any number)."""
    spatial = tuple(shape[1:])
    if len(spatial) != len(divisor) or min(shape, default=0) < 1:
        raise InputError(f"The network is given an array of shape {tuple(shape)}; it takes (channels, *spatial) with {len(divisor)} spatial axes, none empty.")
    if channels is not None and shape[0] != channels:
        raise InputError(f"The network is given {shape[0]} channel(s); it takes {channels}.")
    if any(n % d for n, d in zip(spatial, divisor)):
        raise InputError(f"The network is given {' x '.join(map(str, spatial))} voxels, which its strides ({' x '.join(map(str, divisor))} in all) do not "
                         f"divide. Pad to {' x '.join(str(-(-n // d) * d) for n, d in zip(spatial, divisor))}.")


class GuardedEngine:
    """Runs `engine`, for whatever size the network takes, and lets nothing pass that is NaN or infinite.

    Such input is an error (NotFinite). Where the logits are such, or in a reduced precision the same everywhere (which is what a broken
    kernel returns), an item of a batch is repeated in full precision, which is said once; where that does not help, it is an error that
    names `model`. Several threads may use one at once, as far as they may use `engine`.
    """

    def __init__(self, engine: "Engine", divisor: Sequence[int] | None = None, model: str = "the network") -> None:
        """divisor: product of the strides of each axis; None leaves sizes to the engine."""
        self.engine, self.divisor, self.model = engine, divisor, model
        self.name, self.precision = engine.name, engine.precision
        self._full: Engine | None = None
        self._lock, self._said = threading.Lock(), False

    @property
    def batch_size(self) -> int:
        return self.engine.batch_size

    def in_full_precision(self) -> "Engine":
        if self.precision == "fp32":
            return self
        with self._lock:
            if self._full is None:
                full = self.engine.in_full_precision()
                self._full = full if isinstance(full, GuardedEngine) else GuardedEngine(full, self.divisor, self.model)
            return self._full

    def __call__(self, x: Tensor, classify: bool = True) -> tuple[Tensor, Tensor | None]:
        if self.divisor is not None:
            check_size(x.shape[1:], self.divisor)
        seg_logits, class_logits = self.engine(x, classify)
        dead = [i for i in range(len(x)) if not self.is_alive(x[i], seg_logits[i], None if class_logits is None else class_logits[i])]  # a GPU is waited for
        if not dead:
            return seg_logits, class_logits
        finite = bool(seg_logits[dead].isfinite().all()) and (class_logits is None or bool(class_logits[dead].isfinite().all()))
        self._complain(x, "the same everywhere" if finite else "NaN or infinite")
        for i in dead:
            full_seg, full_class = self.in_full_precision()(x[i : i + 1], classify)
            seg_logits[i] = full_seg[0]
            if class_logits is not None:
                class_logits[i] = full_class[0]
        return seg_logits, class_logits

    def classify(self, x: Tensor, seg_logits: Tensor) -> Tensor | None:
        if self.divisor is not None:
            check_size(x.shape[1:], self.divisor)
        class_logits = self.engine.classify(x, seg_logits)
        if class_logits is None or bool(class_logits.isfinite().all() & x.isfinite().all().to(class_logits.device)):
            return class_logits
        self._complain(x, "NaN or infinite")
        return self.in_full_precision().classify(x, seg_logits)

    def without_waiting(self) -> "AskedLater":
        return AskedLater(self)

    def is_alive(self, x: Tensor, seg_logits: Tensor, class_logits: Tensor | None) -> Tensor:
        """Of one item: a boolean () on the logits' device."""
        # the image is looked at as well: OpenVINO and integers may make numbers of NaN
        low, high = seg_logits.aminmax()  # NaN propagates
        alive = low.isfinite() & high.isfinite() & x.isfinite().all().to(low.device)
        if self.precision != "fp32":
            alive = alive & (low < high)
        if class_logits is not None:
            alive = alive & class_logits.isfinite().all()
        return alive

    def _complain(self, x: Tensor, logits_are: str) -> None:
        """An error if the image is to blame or nothing is left to try, else a warning, the first time."""
        broken = int((~x.isfinite()).sum())
        if broken:
            raise NotFinite(f"The image given to {self.model} holds NaN or infinity in {broken} of its {x.numel()} values. Replace them before predicting.")
        if self.precision == "fp32":
            raise NotFinite(f"The logits of {self.model} are NaN or infinite in fp32 too, though its input is finite (up to {float(x.abs().max()):.3g} in "
                            "magnitude): its weights hold such values, or intensities are far from those it was trained with. "
                            "Restore the checkpoint or train again, and check the image's intensities.")
        with self._lock:
            said, self._said = self._said, True
        if not said:
            warnings.warn(f"{self.precision} logits of {self.model} are {logits_are} though the input is finite; such passes are repeated in fp32.",
                          stacklevel=3)


class AskedLater:
    """Calls of a guarded engine that do not wait for the GPU: it is asked once, after many of them, whether all went well.

    If not, the calls' results are worth nothing; the guarded engine itself finds and repeats what went wrong.
    """

    def __init__(self, guarded: GuardedEngine) -> None:
        self.guarded = guarded
        self.name, self.precision, self.batch_size = guarded.name, guarded.precision, guarded.batch_size
        self._well: Tensor | None = None

    def __call__(self, x: Tensor, classify: bool = True) -> tuple[Tensor, Tensor | None]:
        if self.guarded.divisor is not None:
            check_size(x.shape[1:], self.guarded.divisor)
        seg_logits, class_logits = self.guarded.engine(x, classify)
        for i in range(len(x)):
            alive = self.guarded.is_alive(x[i], seg_logits[i], None if class_logits is None else class_logits[i])
            self._well = alive if self._well is None else self._well & alive
        return seg_logits, class_logits

    def all_well(self) -> bool:
        """Of all calls so far; True before the first."""
        return self._well is None or bool(self._well)


def check_expected(expected: Tensor | None, what: str) -> None:
    """NotFinite if torch's own result of a check with finite input is not finite: then it is the weights."""
    if expected is not None and not bool(torch.isfinite(expected).all()):
        raise NotFinite(f"The network's {what} logits are NaN or infinite for a finite image: its weights hold such values. Take another checkpoint.")
