"""The U-Nets: keys of the published weights, shapes, sizes and initial weights. Logits are compared in tests/conformance."""

import pytest
import torch
from torch import nn

from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet, finest_and_class
from dynamic_network_architectures.building_blocks.conv_blocks import ConvNormNonlin, LayerOps
from dynamic_network_architectures.building_blocks.residual import BasicBlockD, BottleneckD
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

OPS_3D = {"conv_op": nn.Conv3d, "conv_bias": True, "norm_op": nn.InstanceNorm3d, "norm_op_kwargs": {"eps": 1e-5, "affine": True},
          "nonlin": nn.LeakyReLU, "nonlin_kwargs": {"inplace": True}}
OPS_2D = {**OPS_3D, "conv_op": nn.Conv2d, "norm_op": nn.InstanceNorm2d}
SMALL = {"n_stages": 3, "features_per_stage": [4, 6, 8], "kernel_sizes": 3, "strides": [1, 2, [1, 2, 2]], "num_classes": 3,
         "n_conv_per_stage_decoder": 1}
HEAD = {"n_classes": 3, "lesion_labels": [2], "regions": {"lesion": [2], "patch": None}, "stages": [0, 1]}


def small_residual(**kwargs) -> ResidualEncoderUNet:
    torch.manual_seed(0)
    return ResidualEncoderUNet(1, n_blocks_per_stage=[1, 2, 1], **{**SMALL, **OPS_3D, **kwargs})


def small_plain(**kwargs) -> PlainConvUNet:
    torch.manual_seed(0)
    return PlainConvUNet(1, n_conv_per_stage=2, **{**SMALL, **OPS_3D, **kwargs})


def plans_arguments(**arch_kwargs) -> dict:
    return {
        "arch_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
        "arch_kwargs": {
            "n_stages": 3, "features_per_stage": [4, 6, 8], "kernel_sizes": [[3, 3, 3]] * 3, "strides": [[1, 1, 1], [2, 2, 2], [1, 2, 2]],
            "n_blocks_per_stage": [1, 2, 1], "n_conv_per_stage_decoder": [1, 1], "conv_op": "torch.nn.modules.conv.Conv3d",
            "conv_bias": True, "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d", "norm_op_kwargs": {"affine": True},
            "dropout_op": None, "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
            **arch_kwargs},
        "arch_kwargs_req_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        "input_channels": 1,
        "output_channels": 3,
    }


def test_published_number_of_keys_and_tensors():
    with torch.device("meta"):
        net = ResidualEncoderUNet(1, 6, [32, 64, 128, 256, 320, 320], kernel_sizes=3, strides=[1, [1, 2, 2], 2, 2, 2, [2, 1, 2]],
                                  n_blocks_per_stage=[1, 3, 4, 6, 6, 6], num_classes=3, n_conv_per_stage_decoder=1, **OPS_3D)
    assert len(net.state_dict()) == 956
    assert len(list(net.parameters())) == 264
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(101.9e6, rel=0.01)


def test_skip_keys_depend_on_what_the_skip_has_to_do():
    ops = LayerOps(**OPS_3D)

    def skip_keys(n_in: int, n_out: int, stride: int) -> set[str]:
        keys = BasicBlockD(ops, n_in, n_out, 3, stride).state_dict()
        return {key for key in keys if key.startswith("skip") and "all_modules" not in key}

    assert skip_keys(4, 8, 2) == {"skip.1.conv.weight", "skip.1.norm.weight", "skip.1.norm.bias"}
    assert skip_keys(4, 8, 1) == {"skip.0.conv.weight", "skip.0.norm.weight", "skip.0.norm.bias"}
    assert skip_keys(4, 4, 2) == skip_keys(4, 4, 1) == set()


def test_aliases_name_the_same_tensors():
    state = small_residual().state_dict()
    conv = state["encoder.stages.1.blocks.0.conv1.conv.weight"]
    for alias in ("encoder.stages.1.blocks.0.conv1.all_modules.0.weight", "decoder.encoder.stages.1.blocks.0.conv1.conv.weight"):
        assert state[alias].data_ptr() == conv.data_ptr()
    assert state["encoder.stem.convs.0.all_modules.1.weight"].data_ptr() == state["encoder.stem.convs.0.norm.weight"].data_ptr()


def test_plain_encoder_keys():
    assert "encoder.stages.2.0.convs.1.conv.weight" in small_plain().state_dict()


@pytest.mark.parametrize("make", [small_residual, small_plain])
def test_a_class_head_adds_only_keys_of_its_own(make):
    plain, with_head = list(make().state_dict()), list(make(class_head=HEAD).state_dict())
    assert with_head[:len(plain)] == plain
    assert all(key.startswith("class_head.") for key in with_head[len(plain):])


@pytest.mark.parametrize("make", [small_residual, small_plain])
def test_a_class_head_does_not_change_the_segmentation(make):
    plain, with_head = make().eval(), make(class_head=HEAD).eval()
    with_head.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(2, 1, 4, 8, 12)
    assert torch.equal(plain(x), with_head(x)[0])


@pytest.mark.parametrize("make", [small_residual, small_plain])
def test_deep_supervision_gives_finest_first_and_can_be_switched_off(make):
    net = make(deep_supervision=True).eval()
    x = torch.randn(2, 1, 4, 8, 12)
    seg_logits = net(x)
    assert isinstance(seg_logits, list) and [tuple(s.shape) for s in seg_logits] == [(2, 3, 4, 8, 12), (2, 3, 2, 4, 6)]
    net.decoder.deep_supervision = False
    assert torch.equal(net(x), seg_logits[0])


def test_outputs_with_and_without_classes_are_told_apart():
    seg, coarse, classes = torch.zeros(2, 3, 4, 4, 4), torch.zeros(2, 3, 2, 2, 2), torch.zeros(2, 5)
    for output, expected in ((seg, (seg, None)), ([seg, coarse], (seg, None)), ((seg, coarse), (seg, None)), ((seg,), (seg, None)),
                             ((seg, classes), (seg, classes)), (([seg, coarse], classes), (seg, classes)), ((seg, None), (seg, None))):
        assert finest_and_class(output)[0] is expected[0] and finest_and_class(output)[1] is expected[1]


def test_2d_network_with_class_head():
    net = small_residual(**OPS_2D, strides=[1, 2, 2], class_head=HEAD)
    seg_logits, class_logits = net(torch.randn(2, 1, 8, 16), teacher=torch.ones(2, 1, 8, 16), teacher_weight=0.5)
    assert seg_logits.shape == (2, 3, 8, 16)
    assert class_logits.shape == (2, 3) and class_logits.dtype == torch.float32


def test_features_are_the_same_with_and_without_deep_supervision():
    net = small_residual(class_head=HEAD, deep_supervision=True).eval()
    x = torch.randn(1, 1, 4, 8, 8)
    features = net.class_features(x)
    net.decoder.deep_supervision = False
    assert torch.equal(net.class_features(x), features)


def test_class_of_a_known_segmentation_needs_no_deeper_stage_than_the_head_and_no_decoder():
    net = small_residual(class_head=HEAD | {"stages": [0]}, deep_supervision=False).eval()
    nn.init.normal_(net.class_head.classifier.weight)
    x = torch.randn(1, 1, 4, 8, 8)
    (seg_logits, class_logits), features = net(x), net.class_features(x)
    net.encoder.stages[1].forward = net.decoder.forward = None  # would fail if called
    assert torch.equal(net.classify(x, seg_logits), class_logits)
    assert not torch.equal(net.classify(x, seg_logits.flip(1)), class_logits)
    assert torch.equal(net.features_under(x, seg_logits), features)


def test_feature_map_size_of_a_hand_counted_network():
    # grid 4: stem 2*4; stage 0 (one block, nothing to project) 2*(2*4); stage 1 on grid 2: conv1, conv2, skip 3 * (4*2)
    # decoder: transposed conv 2*4, conv 2*4, segmentation 3*4
    net = ResidualEncoderUNet(1, 2, [2, 4], nn.Conv3d, 3, [1, [1, 1, 2]], 1, 3, 1)
    assert net.compute_conv_feature_map_size((1, 1, 4)) == 8 + 16 + 24 + (8 + 8 + 12)


def test_feature_map_size_counts_a_pooling_skip_like_a_projection():
    ops = LayerOps(nn.Conv3d)
    assert BasicBlockD(ops, 4, 4, 3, 2).compute_conv_feature_map_size((2, 2, 2)) == 3 * 4
    assert BasicBlockD(ops, 4, 4, 3, 1).compute_conv_feature_map_size((1, 1, 1)) == 2 * 4


def test_feature_map_size_of_a_bottleneck_block():
    block = BottleneckD(LayerOps(nn.Conv2d), 8, 8, 3, 2, bottleneck_channels=2)
    assert block.compute_conv_feature_map_size((4, 4)) == 2 * 16 + 2 * 4 + 8 * 4 + 8 * 4


def test_feature_map_size_does_not_count_the_class_head():
    size = (4, 8, 8)
    assert small_residual(class_head=HEAD).compute_conv_feature_map_size(size) == small_residual().compute_conv_feature_map_size(size)


def test_deep_supervision_adds_its_segmentations_to_the_feature_map_size():
    size = (4, 8, 8)
    more = small_residual(deep_supervision=True).compute_conv_feature_map_size(size) - small_residual().compute_conv_feature_map_size(size)
    assert more == 3 * 2 * 4 * 4


def test_nonlinearity_can_come_before_the_norm():
    layers = ConvNormNonlin(LayerOps(**OPS_3D, nonlin_first=True), 1, 2, 3).all_modules
    assert [type(layer) for layer in layers] == [nn.Conv3d, nn.LeakyReLU, nn.InstanceNorm3d]


def test_residual_block_starts_as_its_skip():
    net = get_network_from_plans(**plans_arguments())
    block = net.encoder.stages[1].blocks[1].eval()
    x = torch.randn(1, 6, 2, 4, 4)
    assert torch.allclose(block(x.clone()), nn.functional.leaky_relu(x), atol=1e-6)


def test_initial_weights_are_kaiming_with_zero_bias():
    net = get_network_from_plans(**plans_arguments(features_per_stage=[32, 64, 64]))
    conv = net.encoder.stages[1].blocks[0].conv1.conv
    assert conv.bias.abs().max() == 0
    assert conv.weight.std().item() == pytest.approx((2 / (1 + 1e-4) / (32 * 27)) ** 0.5, rel=0.02)


def test_allow_init_false_keeps_torchs_default_weights():
    assert get_network_from_plans(**plans_arguments(), allow_init=False).encoder.stem.convs[0].conv.bias.abs().max() > 0


def test_network_on_the_meta_device_takes_weights_by_assignment():
    weights = small_residual(class_head=HEAD).state_dict()
    with torch.device("meta"):
        net = get_network_from_plans(**plans_arguments(), allow_init=False, class_head=HEAD)
    net.load_state_dict(weights, assign=True)
    x = torch.randn(1, 1, 4, 8, 8)
    assert torch.equal(net.eval()(x)[1], small_residual(class_head=HEAD).eval()(x)[1])
    assert not any(tensor.is_meta for tensor in [*net.parameters(), *net.buffers()])


def test_plans_can_name_the_class_by_an_older_path():
    arguments = plans_arguments() | {"arch_class_name": "dynamic_network_architectures.architectures.residual_unet.ResidualEncoderUNet"}
    assert isinstance(get_network_from_plans(**arguments), ResidualEncoderUNet)


@pytest.mark.parametrize("name", ["nowhere.Network", "os.system", "json.JSONDecoder"])
def test_what_is_no_network_is_refused(name):
    with pytest.raises(InputError, match=f"{name}.*--trust"):
        get_network_from_plans(**plans_arguments() | {"arch_class_name": name})


def test_unknown_op_is_named():
    with pytest.raises(InputError, match="nonlin.*torch.nn.LeekyReLU"):
        get_network_from_plans(**plans_arguments(nonlin="torch.nn.LeekyReLU"))


def test_wrong_number_of_stages_is_named():
    with pytest.raises(ValueError, match="features_per_stage must have 3 entries.*2"):
        small_residual(features_per_stage=[4, 6])
