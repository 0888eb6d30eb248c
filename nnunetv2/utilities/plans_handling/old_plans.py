"""Plans from before nnU-Net 2.4, which describe the network in keys of their own; published weights come with such plans."""

import warnings
from typing import Any

from nnunetv2.utilities.errors import InputError

_NETWORKS = {  # UNet_class_name -> (class, keyword for the encoder's convolutions or blocks)
    "PlainConvUNet": ("dynamic_network_architectures.architectures.unet.PlainConvUNet", "n_conv_per_stage"),
    "ResidualEncoderUNet": ("dynamic_network_architectures.architectures.unet.ResidualEncoderUNet", "n_blocks_per_stage"),
}
_OLD_KEYS = ("UNet_class_name", "UNet_base_num_features", "unet_max_num_features", "n_conv_per_stage_encoder", "n_conv_per_stage_decoder",
             "pool_op_kernel_sizes", "conv_kernel_sizes")


def with_architecture(configuration: dict[str, Any]) -> dict[str, Any]:
    """The configuration with the key `architecture` that plans have had since 2.4, and without the old keys.

    Warns, because a network that was changed in code cannot be told from plans. InputError lists what is missing.
    """
    missing = [key for key in _OLD_KEYS if key not in configuration]
    if missing:
        raise InputError(f"This configuration has no key 'architecture', and for plans from before nnU-Net 2.4 it lacks {', '.join(missing)}. "
                         "Plan the dataset again.")
    name = configuration["UNet_class_name"]
    if name not in _NETWORKS:
        raise InputError(f"Plans from before nnU-Net 2.4 name the network {name!r}; only {' and '.join(_NETWORKS)} can be converted.")
    warnings.warn(f"These plans stem from nnU-Net before 2.4; their network is taken for the {name} of that time.", stacklevel=4)
    network_class, encoder_key = _NETWORKS[name]
    n_stages, dims = len(configuration["n_conv_per_stage_encoder"]), len(configuration["patch_size"])
    features = [min(configuration["UNet_base_num_features"] * 2**stage, configuration["unet_max_num_features"]) for stage in range(n_stages)]
    architecture = {
        "network_class_name": network_class,
        "arch_kwargs": {
            "n_stages": n_stages, "features_per_stage": features,
            "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
            "kernel_sizes": configuration["conv_kernel_sizes"], "strides": configuration["pool_op_kernel_sizes"],
            encoder_key: configuration["n_conv_per_stage_encoder"], "n_conv_per_stage_decoder": configuration["n_conv_per_stage_decoder"],
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d", "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None, "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    kept = {key: value for key, value in configuration.items() if key not in (*_OLD_KEYS, "num_pool_per_axis")}
    return kept | {"architecture": architecture}
