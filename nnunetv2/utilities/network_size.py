"""Sizes that plans ask for, checked before a network or a batch is made: stages, features, kernels, patch, batch, labels."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.memory import refuse_beyond_memory

MAX_STAGES = 32  # each halves the grid: 2 to the 32nd voxels at least
MAX_LAYERS = 2000  # blocks of all stages together
BYTES = 4  # of a weight or a voxel's feature, float32


def check_network_size(arguments: Mapping[str, Any], n_axes: int, input_channels: int, output_channels: int, class_head: Mapping | None,
                       where: object) -> None:
    """Refuse one of our U-Nets whose weights exceed the memory, from the `arch_kwargs` of its plans.

    Raises:
        InputError: naming the key; also for numbers that are no sizes (fractions, below 1).
    """
    n_stages = arguments["n_stages"]
    if not _is_size(n_stages) or n_stages > MAX_STAGES:
        raise InputError(f"{where}: n_stages is {n_stages!r}; it must be a whole number from 1 to {MAX_STAGES}.")
    features = _stages(arguments, "features_per_stage", n_stages, where)
    volumes = [_volume(size, n_axes) for size in _stages(arguments, "kernel_sizes", n_stages, where)]
    _stages(arguments, "strides", n_stages, where)
    encoder = _stages(arguments, "n_blocks_per_stage" if "n_blocks_per_stage" in arguments else "n_conv_per_stage", n_stages, where)
    decoder = _stages(arguments, "n_conv_per_stage_decoder", n_stages - 1, where)
    if sum(encoder) + sum(decoder) > MAX_LAYERS:
        raise InputError(f"{where}: {sum(encoder)} blocks in the encoder and {sum(decoder)} in the decoder; at most {MAX_LAYERS} are built.")
    weights = input_channels * features[0] + output_channels * sum(features[:-1])
    # the first layer of a stage may read fewer channels than it writes, the others read as many
    weights += sum((count - 1) * volume * width**2 for count, volume, width in zip(encoder, volumes, features))
    weights += sum(volume * below * width for volume, below, width in zip(volumes[1:], features, features[1:]))
    weights += sum((count + 1) * volume * width**2 for count, volume, width in zip(decoder, volumes[-2::-1], features[-2::-1]))
    refuse_beyond_memory(BYTES * weights, f"a network of features_per_stage {features[:8]} and kernel_sizes {arguments['kernel_sizes']}", where)
    if class_head is not None:
        _check_head_size(class_head, features, where)


def check_patch_size(patch_size: Sequence[int], batch_size: int, channels: int, where: object) -> None:
    """Refuse a batch whose finest features (`channels` of them) exceed the memory, and a patch that is none."""
    if not isinstance(patch_size, (list, tuple)) or len(patch_size) not in (2, 3) or not all(map(_is_size, patch_size)):
        raise InputError(f"{where}: patch_size is {patch_size!r}; it must be two or three whole numbers of at least 1.")
    if not _is_size(batch_size):
        raise InputError(f"{where}: batch_size is {batch_size!r}; it must be a whole number of at least 1.")
    refuse_beyond_memory(BYTES * batch_size * channels * prod(patch_size),
                         f"patch_size {list(patch_size)}, batch_size {batch_size} with {channels} channels", where)


def finest_channels(arguments: Mapping[str, Any], output_channels: int) -> int:
    """Channels that a network keeps on the grid of its input at least: its first stage's features, or its output if that is more."""
    features = arguments.get("features_per_stage")
    first = features[0] if isinstance(features, (list, tuple)) and features else features
    return max(output_channels, first if _is_size(first) else 1)


def _check_head_size(head: Mapping, features: Sequence[int], where: object) -> None:
    stages, hidden, classes = head.get("stages", (0,)), head.get("hidden", 0), head["n_classes"]
    wrong = [f"{key} is {value!r}" for key, value in (("n_classes", classes), ("hidden", hidden or 1)) if not _is_size(value)]
    if not isinstance(stages, (list, tuple)) or not all(isinstance(stage, int) for stage in stages):
        wrong.append(f"stages is {stages!r}")
    if wrong:
        raise InputError(f"{where}: class_head: {'; '.join(wrong)}; these must be whole numbers of at least 1 (hidden: or 0; stages: a list of numbers).")
    pooled = len(head["regions"]) * sum(features[stage] for stage in stages if -len(features) <= stage < len(features))
    weights = hidden * (pooled + classes) if hidden else pooled * classes
    refuse_beyond_memory(BYTES * weights, f"a class head of {classes} classes and {hidden} hidden units", where)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _stages(arguments: Mapping[str, Any], key: str, n_stages: int, where: object) -> list:
    """One entry a stage, of whole numbers of at least 1, one number or one an axis."""
    value = arguments.get(key)
    values = list(value) if isinstance(value, (list, tuple)) else [value] * n_stages
    if len(values) != n_stages:
        raise InputError(f"{where}: {key} must have {n_stages} entries, one per stage, not {len(values)}: {values[:8]}")
    per_axis_allowed = key in ("kernel_sizes", "strides")
    for entry in values:
        per_axis = entry if isinstance(entry, (list, tuple)) and per_axis_allowed and len(entry) in (1, 2, 3) else [entry]
        if not all(map(_is_size, per_axis)):
            raise InputError(f"{where}: {key} holds {entry!r}; sizes are whole numbers of at least 1.")
    return values


def _volume(size: int | Sequence[int], n_axes: int) -> int:
    return size**n_axes if isinstance(size, int) else prod(size)
