"""The sizes that prediction has to know of a network."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager


@dataclass(frozen=True)
class NetworkGeometry:
    """Sizes in voxels of the plans' spacing, spacing in mm (D, H, W)."""

    patch_size: tuple[int, ...]
    divisor: tuple[int, ...]  # product of the strides of each axis
    spacing: tuple[float, ...]
    mirror_axes: tuple[int, ...] | None  # axes mirrored in training, counted from the first spatial axis


def network_geometry(configuration_manager: ConfigurationManager, mirror_axes: Sequence[int] | None) -> NetworkGeometry:
    """Sizes of the network that a configuration describes; spacing is (D, H, W) and 2D plans have only (H, W)."""
    spacing = tuple(configuration_manager.spacing)
    return NetworkGeometry(
        patch_size=tuple(configuration_manager.patch_size),
        divisor=tuple(prod(axis) for axis in zip(*_strides_by_axis(configuration_manager))),
        spacing=spacing if len(spacing) == 3 else (max(spacing), *spacing),
        mirror_axes=None if mirror_axes is None else tuple(mirror_axes),
    )


def _strides_by_axis(configuration_manager: ConfigurationManager) -> list[tuple[int, ...]]:
    """Strides of each stage, one value an axis; old plans hold a single number for all."""
    n_axes = len(configuration_manager.patch_size)
    return [(s,) * n_axes if isinstance(s, int) else tuple(s) for s in configuration_manager.pool_op_kernel_sizes]
