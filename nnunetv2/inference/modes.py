"""The table of inference modes: how much work a prediction is allowed to save, and on what."""

from dataclasses import dataclass, fields, replace

from nnunetv2.utilities.cpu_flags import cpu_flags

LITTLE_WORK = 2**21  # see in_turn; about a second on two cores (docs/inference-modes.md)
CHOICES = {
    "precision": ("upstream", "fp32", "half", "int8", "reduced"),
    "tta": (1, 2, 4, 8),
    "tiling": ("windows", "whole"),
    "roi": ("none", "coarse"),
}


@dataclass(frozen=True)
class InferenceMode:
    """Levers of one prediction; the defaults give upstream's result.

    precision: "upstream" is what nnU-Net does on that device (fp32 on CPU and MPS, fp16 autocast on CUDA); "fp32"; "half" is
        16 bits: fp16 on CUDA and MPS, on CPUs bf16, with Winograd convolutions pairs of it or integers; "int8" is for CPUs and needs a
        quantised model (inference/quantization.py); "reduced" is the fastest of them, which on CPUs may be any.
    tta: mirrored passes of each window that are averaged (mirror_views).
    in_turn: mirrored views that cost little. Every other window, as on a chessboard, is mirrored; and small volumes get up to four views, as long
        as all passes together see no more than LITTLE_WORK voxels.
    tiling: "windows" of the training patch, or "whole": a volume that fits goes through once at its exact size.
    roi: "coarse" looks for the foreground on a coarse grid first and then segments only boxes around what it finds.
    tile_step_size: distance of windows as a fraction of the patch, in (0, 1].
    """

    precision: str = "upstream"
    tta: int = 8
    in_turn: bool = False
    tiling: str = "windows"
    roi: str = "none"
    tile_step_size: float = 0.5

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(map(str, allowed))}.")
        if not 0 < self.tile_step_size <= 1:
            raise ValueError(f"tile_step_size is {self.tile_step_size}; it must lie in (0, 1].")

    def precision_on(self, device_type: str, int16_pays: bool = False, int8_pays: bool = False) -> str:
        """ "fp32", "half" or "int8": what the network runs in on "cuda", "mps" or "cpu". ..._pays: it is there and faster than fp32."""
        if self.precision == "reduced":
            if device_type != "cpu" or cpu_has_fast_bf16() or int16_pays:
                return "half"
            return "int8" if int8_pays else "fp32"
        if self.precision == "upstream":
            return "half" if device_type == "cuda" else "fp32"
        return self.precision


def cpu_has_fast_bf16() -> bool:
    """True on Linux CPUs with AMX tiles, where three products of bf16 take less time than one of fp32 or of 16-bit integers without.

    AVX512_BF16 alone is not enough: OpenVINO is no faster with it than Winograd convolutions in fp32.
    """
    return "amx_bf16" in cpu_flags()


def cpu_has_fast_int16() -> bool:
    """True on Linux CPUs that multiply and add 32 pairs of 16-bit integers in one instruction, twice as many as of fp32 (AVX-512 with VNNI)."""
    return "avx512_vnni" in cpu_flags()


def cpu_has_fast_int8() -> bool:
    """True on Linux CPUs that multiply and add bytes in one instruction (VNNI). Without, Winograd convolutions in fp32 are faster."""
    return not cpu_flags().isdisjoint(("avx512_vnni", "avx_vnni"))


MODES = {
    "exact": InferenceMode(),
    "half": InferenceMode(precision="reduced"),
    # windows: instance norms see as much tissue as in training; whole boxes are segmented worse (docs/inference-modes.md)
    "fast": InferenceMode(precision="reduced", tta=1, in_turn=True, roi="coarse"),
}


def inference_mode(name: str, **overrides: str | int | float | None) -> InferenceMode:
    """Mode `name` with single levers replaced; an override of None leaves the mode's own value. `tta` also ends `in_turn`: so many views it is.

    >>> inference_mode("fast", tta=2, roi=None).tta
    2
    """
    if name not in MODES:
        raise ValueError(f"mode is {name!r}; choose one of {', '.join(MODES)}.")
    unknown = set(overrides) - {field.name for field in fields(InferenceMode)}
    if unknown:
        raise TypeError(f"An inference mode has no {', '.join(sorted(unknown))}.")
    given = {key: value for key, value in overrides.items() if value is not None}
    return replace(MODES[name], **({"in_turn": False} if "tta" in given else {}), **given)
