"""The class head: pooling and descriptors against hand-derived values, teacher, gradients, standardiser, export."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from dynamic_network_architectures.building_blocks.class_head import (
    ClassHead, RunningStandardiser, average_pool, core_and_rim, density, describe_masks, image_texture, masked_statistics, region_presence)

REGIONS = {"lesion": [2], "pancreas": [1, 2], "patch": None}


def make_head(channels=(2, 3), strides=((1, 1, 1), (2, 2, 2)), **config) -> ClassHead:
    config = {"n_classes": 3, "lesion_labels": [2], "regions": REGIONS, "stages": [0, 1], "dropout": 0.0, **config}
    return ClassHead(list(channels), list(strides), 3, **config)


def certain(labels: torch.Tensor) -> torch.Tensor:
    """Logits (B, 3, ...) whose softmax is one-hot of labels (B, 1, ...)."""
    return 1e4 * torch.cat([labels == i for i in range(3)], 1).float()


@pytest.fixture
def inputs():
    """Skips of two stages, logits and labels; item 1 holds no lesion."""
    generator = torch.Generator().manual_seed(0)
    skips = [torch.randn(2, 2, 4, 4, 4, generator=generator), torch.randn(2, 3, 2, 2, 2, generator=generator)]
    labels = torch.randint(0, 3, (2, 1, 4, 4, 4), generator=generator)
    labels[1][labels[1] == 2] = 1
    return skips, torch.randn(2, 3, 4, 4, 4, generator=generator), labels


def test_statistics_under_a_sharp_mask():
    features = torch.tensor([1.0, 3.0, 100.0, 100.0]).view(1, 1, 1, 1, 4)
    mask = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 1, 1, 4)
    mean, std = masked_statistics(features, mask)
    assert (mean.item(), std.item()) == pytest.approx((2.0, 1.0))


def test_statistics_under_a_soft_mask():
    features = torch.tensor([0.0, 4.0]).view(1, 1, 1, 1, 2)
    mask = torch.tensor([0.6, 0.2]).view(1, 1, 1, 1, 2)
    mean, std = masked_statistics(features, mask)
    assert (mean.item(), std.item()) == pytest.approx((1.0, math.sqrt(3.0)))


def test_statistics_keep_regions_and_channels_apart():
    features = torch.tensor([[1.0, 2.0], [30.0, 40.0]]).view(1, 2, 1, 1, 2)  # channel, voxel
    masks = torch.eye(2).view(1, 2, 1, 1, 2)  # region r = voxel r
    assert masked_statistics(features, masks, ["mean"])[0][0].tolist() == [[1.0, 30.0], [2.0, 40.0]]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_mean_lies_between_the_extremes_and_std_below_half_the_range(seed):
    generator = torch.Generator().manual_seed(seed)
    features, masks = torch.randn(1, 3, 2, 3, 4, generator=generator), torch.rand(1, 2, 2, 3, 4, generator=generator)
    low, high = features.flatten(2).amin(2), features.flatten(2).amax(2)
    mean, std = masked_statistics(features, masks)
    assert ((mean >= low - 1e-5) & (mean <= high + 1e-5)).all()
    assert (std <= (high - low) / 2 + 1e-5).all()


@pytest.mark.slow
@pytest.mark.parametrize("statistics", [("mean", "std"), ("mean",)])
def test_statistics_without_gradient_go_plane_by_plane_to_the_same(statistics):
    features, masks = torch.randn(2, 64, 3, 128, 128), torch.rand(2, 2, 3, 128, 128)  # two planes are more than is taken at a time
    whole = masked_statistics(features, masks, statistics)
    with torch.no_grad():
        torch.testing.assert_close(masked_statistics(features, masks, statistics), whole, rtol=1e-4, atol=1e-5)


def test_masks_are_averaged_over_the_strides():
    mask = torch.zeros(1, 1, 2, 4, 4)
    mask[..., 0, 0] = 1
    assert average_pool(mask, (1, 2, 4))[0, 0].tolist() == [[[0.125], [0.0]], [[0.125], [0.0]]]


def test_descriptors_of_a_box():
    mask = torch.zeros(1, 1, 6, 7, 8)
    mask[..., 1:3, 2:5, 3:7] = 1  # 2 x 3 x 4
    volume, surface, *extents = describe_masks(mask)[0, 0].expm1().tolist()
    assert volume == pytest.approx(24, rel=1e-5)
    assert surface == pytest.approx(2 * (12 + 8 + 6), rel=1e-5)
    assert extents == pytest.approx([math.sqrt((n * n - 1) / 12) for n in (2, 3, 4)], rel=1e-4)  # of a uniform distribution


def test_descriptors_of_an_empty_mask_are_zero():
    assert describe_masks(torch.zeros(1, 1, 2, 2, 2)).abs().max() == 0


def test_descriptors_do_not_depend_on_the_place():
    mask = torch.zeros(2, 1, 8, 8, 8)
    mask[0, :, 1:3, 1:3, 1:4] = 1
    mask[1, :, 4:6, 3:5, 4:7] = 1
    first, second = describe_masks(mask)
    assert torch.allclose(first, second, atol=1e-5)


def test_presence_saturates_at_one_voxel():
    masks = torch.tensor([[0.0, 0.0], [0.1, 0.2], [0.9, 0.9]]).view(1, 3, 1, 1, 2)
    assert region_presence(masks)[0].tolist() == pytest.approx([0.0, 0.3, 1.0])


def test_default_head_of_resenc_m_has_1354_features():
    head = make_head((32, 64, 128, 256, 320, 320), [(1, 1, 1), (1, 2, 2), *[(2, 2, 2)] * 4], stages=[0, 1, 2])
    assert head.n_features == 3 * 2 * (32 + 64 + 128) + 2 * 5


def test_features_come_by_stage_statistic_region_channel_then_descriptors(inputs):
    skips, logits, labels = inputs
    head = make_head()
    features = head.features(skips, certain(labels))
    assert features.shape == (2, head.n_features)
    lesion = labels[0, 0] == 2
    assert torch.allclose(features[0, :2], skips[0][0][:, lesion].mean(1), atol=1e-5)
    std_of_whole_patch = skips[0][0].flatten(1).std(1, correction=0)
    assert torch.allclose(features[0, 3 * 2 + 2 * 2:6 * 2], std_of_whole_patch, atol=1e-4)
    assert features[0, -10].expm1().item() == pytest.approx(lesion.sum().item(), rel=1e-4)


def test_empty_region_gives_zeros(inputs):
    skips, _, labels = inputs
    head = make_head(regions={"lesion": [2]})
    features = head.features(skips, certain(labels))
    assert features[0].abs().min() > 0
    assert features[1].abs().max() == 0


def test_empty_region_gives_finite_gradients(inputs):
    skips, _, labels = inputs
    skips = [skip.requires_grad_() for skip in skips]
    make_head().features(skips, certain(torch.zeros_like(labels))).square().sum().backward()
    assert all(torch.isfinite(skip.grad).all() for skip in skips)


def test_bottleneck_counts_from_the_end(inputs):
    skips, logits, _ = inputs
    naive = {"regions": {"patch": None}, "statistics": ["mean"], "descriptors": False}
    features = make_head(**naive, stages=[-1]).features(skips, logits)
    assert torch.allclose(features, skips[1].flatten(2).mean(2), atol=1e-5)


def test_teacher_of_weight_one_replaces_the_segmentation(inputs):
    skips, logits, labels = inputs
    head = make_head()
    assert torch.allclose(head.features(skips, logits, labels, 1.0), head.features(skips, certain(labels)), atol=1e-5)


def test_teacher_of_weight_zero_is_not_heard(inputs):
    skips, logits, labels = inputs
    head = make_head()
    assert torch.equal(head.features(skips, logits, labels, 0.0), head.features(skips, logits))


def test_teacher_mixes_masks_linearly(inputs):
    skips, logits, labels = inputs
    head = make_head(regions={"lesion": [2]}, stages=[0], statistics=["mean"])
    probability = logits.softmax(1)[:, 2:]
    mask = 0.75 * probability + 0.25 * (labels == 2).float()
    expected = masked_statistics(skips[0], mask, ["mean"])[0].flatten(1)
    assert torch.allclose(head.features(skips, logits, labels, 0.25)[:, :2], expected, atol=1e-5)


def test_where_the_teacher_knows_nothing_the_segmentation_counts(inputs):
    skips, logits, labels = inputs
    head = make_head()
    for unknown in (3, -1):
        assert torch.allclose(head.features(skips, logits, torch.full_like(labels, unknown), 1.0), head.features(skips, logits), atol=1e-6)


def test_mirrored_input_gives_the_same_features(inputs):
    skips, logits, _ = inputs
    head = make_head()
    mirrored = head.features([skip.flip(2, 4) for skip in skips], logits.flip(2, 4))
    assert torch.allclose(mirrored, head.features(skips, logits), atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_encoder_gets_its_share_of_the_gradient(inputs, share):
    def gradient(share: float) -> torch.Tensor:
        skip = inputs[0][0].clone().requires_grad_()
        head = make_head(stages=[0])
        nn.init.ones_(head.classifier.weight)
        head.encoder_gradient = share
        head([skip], inputs[1]).sum().backward()
        return torch.zeros_like(skip) if skip.grad is None else skip.grad

    assert gradient(1.0).abs().max() > 0
    assert torch.allclose(gradient(share), share * gradient(1.0), atol=1e-7)


def test_share_of_gradient_does_not_change_the_features(inputs):
    skips, logits, _ = inputs
    head = make_head()
    full = head.features(skips, logits)
    head.encoder_gradient = 0.3
    assert torch.allclose(head.features(skips, logits), full, atol=1e-6)


def test_segmentation_gets_no_gradient_from_the_class(inputs):
    skips, logits, _ = inputs
    logits = logits.requires_grad_()
    head = make_head()
    nn.init.ones_(head.classifier.weight)
    head([skip.requires_grad_() for skip in skips], logits).sum().backward()
    assert logits.grad is None


def test_untrained_head_holds_all_classes_alike(inputs):
    assert make_head()(inputs[0], inputs[1]).abs().max() == 0


def test_float16_features_do_not_overflow():
    skips = [torch.full((1, 2, 16, 32, 32), 300.0, dtype=torch.float16)]  # squares and sums exceed 65504
    labels = torch.full((1, 1, 16, 32, 32), 2)
    head = make_head((2,), ((1, 1, 1),), stages=[0], statistics=["mean"], descriptors=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = head.features(skips, certain(labels).half())
    assert features.dtype == torch.float32
    # lesion, pancreas and patch are the same here
    assert features[0].tolist() == pytest.approx([300.0] * 6, rel=1e-4)


def test_temperature_counts_in_eval_mode_only(inputs):
    skips, logits, _ = inputs
    head = make_head()
    nn.init.normal_(head.classifier.weight)
    head.standardiser.eval()  # frozen: both passes see the same statistics
    head.temperature.fill_(2.0)
    head.training = True
    in_training = head(skips, logits)
    assert torch.allclose(head.eval()(skips, logits), in_training / 2, atol=1e-6)


def test_hidden_layer(inputs):
    head = make_head(hidden=5)
    assert head.represent(head.features(*inputs[:2])).shape == (2, 5)
    assert head(*inputs[:2]).shape == (2, 3)


@pytest.mark.slow
def test_standardiser_at_batch_size_2_finds_the_distribution():
    torch.manual_seed(0)
    standardiser = RunningStandardiser(1, horizon=2000)
    for _ in range(1000):
        standardiser(5 + 3 * torch.randn(2, 1))
    assert standardiser.mean.item() == pytest.approx(5, abs=0.3)
    assert standardiser.variance.sqrt().item() == pytest.approx(3, abs=0.3)


def test_standardiser_is_the_average_of_all_rows_and_one_pseudo_row():
    standardiser = RunningStandardiser(1)
    standardiser(torch.tensor([[2.0], [4.0]]))
    standardiser(torch.tensor([[6.0], [8.0]]))
    # pseudo-row: mean 0, variance 1
    assert standardiser.mean.item() == pytest.approx(20 / 5)
    assert standardiser.variance.item() == pytest.approx((1 + 4 + 16 + 36 + 64) / 5 - 16)


def test_standardiser_forgets_beyond_its_horizon():
    standardiser = RunningStandardiser(1, horizon=4)
    for value in [0.0] * 20 + [1.0] * 20:
        standardiser(torch.tensor([[value]]))
    assert standardiser.mean.item() > 0.98


def test_standardiser_is_frozen_in_eval_mode():
    standardiser = RunningStandardiser(1).eval()
    standardiser(torch.tensor([[100.0]]))
    assert (standardiser.mean.item(), standardiser.variance.item()) == (0.0, 1.0)


def test_standardiser_leaves_out_rows_of_weight_zero():
    standardiser = RunningStandardiser(1)
    standardiser(torch.tensor([[2.0], [1000.0]]), torch.tensor([1.0, 0.0]))
    assert standardiser.mean.item() == pytest.approx(1.0)
    standardiser(torch.tensor([[1000.0], [1000.0]]), torch.zeros(2))
    assert standardiser.mean.item() == pytest.approx(1.0)


def test_patches_without_lesion_do_not_count_in_the_statistics(inputs):
    skips, _, labels = inputs
    both, first = make_head(), make_head()
    both(skips, certain(labels))
    first([skip[:1] for skip in skips], certain(labels[:1]))
    assert torch.allclose(both.standardiser.mean, first.standardiser.mean, atol=1e-6)
    assert both.standardiser.count.item() == 2


def test_all_errors_of_a_configuration_are_listed():
    with pytest.raises(ValueError, match=r"'lesion' has labels \[3\].*stage 2.*'median'"):
        make_head(regions={"lesion": [3]}, stages=[2], statistics=["median"])


@pytest.mark.slow
def test_openvino_gives_the_same_logits_at_another_size():
    openvino = pytest.importorskip("openvino")
    torch.manual_seed(0)
    net = ResidualEncoderUNet(1, 3, [2, 3, 4], nn.Conv3d, 3, [1, 2, [1, 2, 2]], 1, 3, 1, True, nn.InstanceNorm3d, {"affine": True},
                              nonlin=nn.LeakyReLU, class_head={"n_classes": 3, "lesion_labels": [2], "regions": REGIONS, "stages": [0, 1, -1],
                                                         "texture_of_channels": 1, "focus": True})
    nn.init.normal_(net.class_head.classifier.weight)
    net.class_head.temperature.fill_(1.5)
    net.eval()
    model = openvino.convert_model(net, example_input=torch.randn(1, 1, 4, 8, 8))
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for shape in ((1, 1, 4, 8, 8), (2, 1, 6, 12, 20)):
        x = torch.randn(shape)
        with torch.no_grad():
            expected = net(x)
        for got, want in zip(compiled(x.numpy()).to_tuple(), expected):
            np.testing.assert_allclose(got, want.numpy(), atol=1e-4, rtol=1e-4)


def test_texture_of_a_constant_image_is_its_value_and_zeros():
    texture = image_texture(torch.full((1, 1, 4, 4, 4), 7.0))
    torch.testing.assert_close(texture[0], torch.tensor([7.0, 0, 0, 0]).view(4, 1, 1, 1).expand(4, 4, 4, 4), atol=1e-5, rtol=0)


def test_texture_of_a_single_bright_voxel():
    """Mean over 27 voxels 1, so detail 26 at the voxel and -1 beside it; far from it nothing."""
    image = torch.zeros(1, 1, 11, 11, 11)
    image[0, 0, 5, 5, 5] = 27.0
    _, detail, spread, _ = image_texture(image)[0]
    assert detail[5, 5, 5] == 26 and detail[5, 5, 6] == -1 and detail[0, 0, 0] == 0
    assert spread[5, 5, 5].item() == pytest.approx(((26**2 + 26) / 27) ** 0.5) and spread[0, 0, 0] == 0


def test_core_and_rim_of_a_cube():
    masks = torch.zeros(1, 1, 7, 7, 7)
    masks[..., 2:5, 2:5, 2:5] = 1
    whole, core, rim = core_and_rim(masks)[0]
    assert core.nonzero().tolist() == [[3, 3, 3]] and rim.sum() == 26 and torch.equal(core + rim, whole)


def test_texture_features_follow_the_others_and_need_the_image(inputs):
    skips, logits, _ = inputs
    plain, textured = make_head(regions={"lesion": [2], "patch": None}), make_head(regions={"lesion": [2], "patch": None}, texture_of_channels=1)
    image = torch.randn(len(logits), 1, *logits.shape[2:])
    features = textured.features(skips, logits, image=image)
    assert features.shape[1] == textured.n_features == plain.n_features + 3 * 2 * 4
    assert torch.allclose(features[:, :plain.n_features], plain.features(skips, logits))
    mean_in_lesion = (logits.softmax(1)[:, 2] * image[:, 0]).sum((1, 2, 3)) / logits.softmax(1)[:, 2].sum((1, 2, 3))
    assert torch.allclose(features[:, plain.n_features], mean_in_lesion, atol=1e-5)


def test_labels_of_a_previous_stage_on_top_of_the_image_have_no_texture(inputs):
    skips, logits, _ = inputs
    head = make_head(regions={"lesion": [2]}, texture_of_channels=1)
    image = torch.randn(len(logits), 3, *logits.shape[2:])
    assert torch.equal(head.features(skips, logits, image=image), head.features(skips, logits, image=image[:, :1]))


def test_texture_features_of_an_empty_region_are_zero(inputs):
    skips, logits, labels = inputs
    head = make_head(regions={"lesion": [2]}, texture_of_channels=1)
    features = head.features(skips, certain(torch.zeros_like(labels)), image=torch.randn(len(logits), 1, *logits.shape[2:]))
    assert features[:, -24:].abs().max() < 1e-6


def test_density_of_a_full_and_of_an_empty_mask():
    torch.testing.assert_close(density(torch.ones(1, 1, 4, 4, 4)), torch.ones(1, 1, 4, 4, 4))
    assert density(torch.zeros(1, 1, 4, 4, 4)).abs().max() == 0


def test_density_at_a_lone_voxel():
    """Three means over 3 voxels put 7/27 of it back along each axis."""
    mask = torch.zeros(1, 1, 9, 9, 9)
    mask[..., 4, 4, 4] = 1
    assert density(mask)[0, 0, 4, 4, 4].item() == pytest.approx((7 / 27) ** 3)


def test_focus_lets_a_speck_count_less_than_its_share():
    """A cube of 5 voxels an axis with feature 0, and one voxel far away with feature 1."""
    logits = certain(torch.zeros(1, 1, 16, 8, 8, dtype=torch.long))
    labels = torch.zeros(1, 1, 16, 8, 8, dtype=torch.long)
    labels[..., 1:6, 1:6, 1:6] = 2
    labels[..., 14, 6, 6] = 2
    skip = torch.zeros(1, 1, 16, 8, 8)
    skip[..., 12:, :, :] = 1
    arguments = {"channels": (1,), "strides": ((1, 1, 1),), "regions": {"lesion": [2]}, "stages": [0], "statistics": ["mean"], "descriptors": False}
    plain, focused = (make_head(**arguments, focus=focus).features([skip], logits, labels, 1.0).item() for focus in (False, True))
    assert plain == pytest.approx(1 / 126) and 0 < focused < 0.1 * plain
