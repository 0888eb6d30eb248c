import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from math import prod
from torch import nn

from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from nnunetv2.experiment_planning.network_topology import MIN_EDGE, Topology, conv_feature_map_size, plan_topology

ONE, TWO, IN_PLANE = (1, 1, 1), (2, 2, 2), (1, 2, 2)
grids = st.lists(st.tuples(st.floats(0.3, 10), st.integers(1, 400)), min_size=2, max_size=3)


def test_isotropic_axes_are_pooled_together_down_to_four_voxels():
    topology = plan_topology((1, 1, 1), (32, 32, 32))
    assert topology == Topology((32,) * 3, (8,) * 3, (ONE, TWO, TWO, TWO), ((3, 3, 3),) * 4)


def test_coarse_axis_waits_until_the_others_have_caught_up():
    topology = plan_topology((4, 1, 1), (16, 64, 64))  # mm: 4 1 1 -> 4 2 2 -> 4 4 4 -> 8 8 8 -> 16 16 16
    assert topology.strides == (ONE, IN_PLANE, IN_PLANE, TWO, TWO)
    assert topology.kernel_sizes == ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))


def test_axis_of_seven_voxels_is_not_pooled():
    assert plan_topology((1, 1, 1), (7, 16, 16)).strides == (ONE, IN_PLANE, IN_PLANE)


@pytest.mark.parametrize(("length", "pooled"), [(11, False), (12, True)])
def test_axis_pooled_alone_needs_twelve_voxels(length, pooled):
    assert (plan_topology((1, 1, 1), (length, 4, 4)).n_stages == 2) == pooled


def test_patch_is_rounded_up_to_what_pooling_divides():
    assert plan_topology((1, 1), (33, 62.5)).patch_size == (40, 64)  # medians of an even number of cases end in .5


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(grids)
def test_patch_grows_by_less_than_its_divisor(grid):
    spacing, size = zip(*grid)
    topology = plan_topology(spacing, size)
    for planned, wanted, divisor in zip(topology.patch_size, size, topology.divisor):
        assert planned % divisor == 0 and 0 <= planned - wanted < divisor


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(grids)
def test_divisor_is_the_product_of_strides_and_pooled_axes_keep_an_edge(grid):
    spacing, size = zip(*grid)
    topology = plan_topology(spacing, size)
    for axis, divisor in enumerate(topology.divisor):
        assert divisor == prod(stride[axis] for stride in topology.strides)
        assert divisor == 1 or topology.patch_size[axis] // divisor >= MIN_EDGE


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(grids)
def test_kernels_never_shrink_again_on_the_way_down(grid):
    spacing, size = zip(*grid)
    kernels = plan_topology(spacing, size).kernel_sizes
    for axis in range(len(spacing)):
        along = [kernel[axis] for kernel in kernels]
        assert along == sorted(along) and along[-1] == 3


# The published counts (558319104 and 129793792) include three segmentation channels at every decoder stage, not the finest alone.
@pytest.mark.parametrize(("patch", "features", "size"), [
    ((128,) * 3, (32, 64, 128, 256, 320, 320), 558_319_104 - 3 * (64**3 + 32**3 + 16**3 + 8**3)),
    ((512,) * 2, (32, 64, 128, 256, 512, 512, 512), 129_793_792 - 3 * (256**2 + 128**2 + 64**2 + 32**2 + 16**2))])
def test_memory_estimate_of_the_published_residual_networks(patch, features, size):
    strides = ((1,) * len(patch), *((2,) * len(patch),) * (len(features) - 1))
    topology = Topology(patch, (), strides, ())
    assert conv_feature_map_size(topology, features, (1, 3, 4, 6, 6, 6, 6), (1,) * 6, 3, residual=True) == size


@pytest.mark.slow
@pytest.mark.parametrize("residual", [False, True])
def test_memory_estimate_counts_what_the_network_computes(residual):
    topology = plan_topology((2.5, 1, 1), (8, 32, 48))
    features = [4, 6, 9, 14][: topology.n_stages]
    n_encoder, n_decoder = [1, 3, 2, 2][: topology.n_stages], [2, 1, 3][: topology.n_stages - 1]
    counted = 0

    def count(module, inputs, output):
        nonlocal counted
        counted += output[0].numel()

    name, network = ("n_blocks_per_stage", ResidualEncoderUNet) if residual else ("n_conv_per_stage", PlainConvUNet)
    with torch.device("meta"):
        net = network(1, topology.n_stages, features, nn.Conv3d, topology.kernel_sizes, topology.strides, num_classes=5,
                      n_conv_per_stage_decoder=n_decoder, norm_op=nn.InstanceNorm3d, norm_op_kwargs={}, nonlin=nn.ReLU, **{name: n_encoder})
        for module in {id(m): m for m in net.modules() if isinstance(m, (nn.Conv3d, nn.ConvTranspose3d))}.values():
            module.register_forward_hook(count)
        net(torch.zeros(1, 1, *topology.patch_size))
    assert conv_feature_map_size(topology, features, n_encoder, n_decoder, 5, residual) == counted
