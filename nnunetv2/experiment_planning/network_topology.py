"""From spacing and patch size to a U-Net's strides and kernels, and what such a network costs in memory.

Isensee et al., nnU-Net, Nature Methods 2021, supplement: pool while a feature map keeps an edge of 4 voxels, coarse axes
later than fine ones, so that voxels of deep feature maps are about isotropic.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

MIN_EDGE = 4  # voxels of the bottleneck's feature map along a pooled axis


@dataclass(frozen=True)
class Topology:
    """One entry a stage in `strides` and `kernel_sizes`, the first stage without stride."""

    patch_size: tuple[int, ...]  # rounded up to multiples of `divisor`
    divisor: tuple[int, ...]  # 2 ** number of poolings along the axis
    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]

    @property
    def n_stages(self) -> int:
        return len(self.strides)


def plan_topology(spacing: Sequence[float], patch_size: Sequence[float], min_edge: int = MIN_EDGE) -> Topology:
    """Topology for a patch of about `patch_size` voxels at `spacing` mm, same axis order; `min_edge`: voxels a pooled axis keeps."""
    dims = len(spacing)
    current_spacing, current_size = list(spacing), list(patch_size)
    kernel = [1] * dims
    strides, kernels, divisor = [(1,) * dims], [], [1] * dims
    while pooled := _axes_to_pool(current_spacing, current_size, min_edge):
        finest = min(current_spacing)
        # A convolution along an axis more than twice as coarse would mix unlike distances; once reached, 3 stays.
        kernel = [3 if size == 3 or mm / finest < 2 else 1 for size, mm in zip(kernel, current_spacing)]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if axis in pooled else 1 for axis in range(dims)))
        for axis in pooled:
            current_spacing[axis] *= 2
            current_size[axis] = ceil(current_size[axis] / 2)
            divisor[axis] *= 2
    kernels.append((3,) * dims)  # the bottleneck, whatever the spacing
    rounded = tuple(ceil(size / d) * d for size, d in zip(patch_size, divisor))
    return Topology(rounded, tuple(divisor), tuple(strides), tuple(kernels))


def _axes_to_pool(spacing: Sequence[float], size: Sequence[float], min_edge: int) -> list[int]:
    """Axes long enough and within a factor 2 of the finest of those. An axis pooled alone must be longer still."""
    long_enough = [axis for axis, n in enumerate(size) if n >= 2 * min_edge]
    if not long_enough:
        return []
    finest = min(spacing[axis] for axis in long_enough)
    axes = [axis for axis in long_enough if spacing[axis] / finest < 2]
    if len(axes) == 1 and size[axes[0]] < 3 * min_edge:
        return []
    return axes


def conv_feature_map_size(topology: Topology, features: Sequence[int], n_encoder: Sequence[int], n_decoder: Sequence[int],
                          n_outputs: int, residual: bool) -> int:
    """Values in all convolution outputs of a U-Net for one patch: nnU-Net's measure of GPU memory.

    Counted from the numbers, so no network is built. `n_encoder`: convolutions, or with `residual` blocks, a stage;
    `n_decoder`: convolutions a stage; one segmentation output, at full resolution.
    """
    size = topology.patch_size
    total = features[0] * prod(size) if residual else 0  # the residual encoder's stem
    channels = features[0]
    sizes = []
    for stride, n_features, n in zip(topology.strides, features, n_encoder):
        previous, size = size, tuple(n // s for n, s in zip(size, stride))
        convolutions = n
        if residual:
            projects = n_features != channels or size != previous  # the first block's skip
            convolutions = 2 * n + projects
        total += convolutions * n_features * prod(size)
        channels = n_features
        sizes.append(prod(size))
    for n_voxels, n_features, n in zip(sizes[-2::-1], features[-2::-1], n_decoder):
        total += (n + 1) * n_features * n_voxels  # + 1: the transposed convolution
    return total + n_outputs * sizes[0]
