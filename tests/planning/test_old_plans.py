"""Plans from before nnU-Net 2.4."""

import pytest

from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

OLD = {
    "data_identifier": "nnUNetPlans_3d_fullres", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2, "patch_size": [16, 16, 16], "spacing": [1.5, 1.5, 1.5],
    "UNet_class_name": "PlainConvUNet", "UNet_base_num_features": 8, "unet_max_num_features": 24, "n_conv_per_stage_encoder": [2, 2, 2],
    "n_conv_per_stage_decoder": [2, 2], "num_pool_per_axis": [2, 2, 2], "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
    "conv_kernel_sizes": [[3, 3, 3]] * 3, "batch_dice": False,
}


def configuration(**changes):
    return PlansManager({"plans_name": "nnUNetPlans", "configurations": {"3d_fullres": OLD | changes}}).get_configuration("3d_fullres")


def test_the_network_of_old_plans_is_built():
    with pytest.warns(UserWarning, match="before 2.4"):
        found = configuration()
    assert found.network_arch_init_kwargs["features_per_stage"] == [8, 16, 24] and found.pool_op_kernel_sizes == OLD["pool_op_kernel_sizes"]
    network = get_network_from_plans(found.network_arch_class_name, found.network_arch_init_kwargs, found.network_arch_init_kwargs_req_import, 1, 3)
    assert network.encoder.stages[0][0].convs[0].conv.out_channels == 8


def test_old_residual_plans_count_blocks():
    with pytest.warns(UserWarning, match="ResidualEncoderUNet"):
        assert configuration(UNet_class_name="ResidualEncoderUNet").network_arch_init_kwargs["n_blocks_per_stage"] == [2, 2, 2]


def test_two_dimensional_plans_get_two_dimensional_layers():
    with pytest.warns(UserWarning):
        kwargs = configuration(patch_size=[16, 16], spacing=[1.5, 1.5]).network_arch_init_kwargs
    assert kwargs["conv_op"].endswith("Conv2d") and kwargs["norm_op"].endswith("InstanceNorm2d")


def test_another_network_cannot_be_converted():
    with pytest.raises(InputError, match="'UNETR'"):
        configuration(UNet_class_name="UNETR")


def test_what_is_missing_is_listed():
    broken = {key: value for key, value in OLD.items() if key not in ("conv_kernel_sizes", "UNet_class_name")}
    with pytest.raises(InputError, match="UNet_class_name, conv_kernel_sizes"):
        PlansManager({"plans_name": "p", "configurations": {"x": broken}}).get_configuration("x")
