"""Build the network that a plans file describes."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from dynamic_network_architectures.building_blocks.conv_blocks import LayerOps
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.network_parts import OWN_NETWORKS, resolve_architecture
from nnunetv2.utilities.network_size import check_network_size


def get_network_from_plans(arch_class_name: str, arch_kwargs: dict[str, Any], arch_kwargs_req_import: Sequence[str],
                           input_channels: int, output_channels: int, allow_init: bool = True,
                           deep_supervision: bool | None = None, class_head: dict | None = None, where: object = "plans") -> nn.Module:
    """Network from `configurations[c]["architecture"]` of a plans file.

    arch_class_name: path of the class, one of our two U-Nets or a class of a package that the user trusts.
    arch_kwargs_req_import: keys of `arch_kwargs` whose values are paths themselves ("torch.nn.Conv3d", or None).
    allow_init: draw initial weights; leave it out where a checkpoint overwrites them (2 s for a large network).
    deep_supervision: overrides `arch_kwargs` unless None. class_head: architecture["class_head"], or None.
    where: the plans' file, for messages.

    Raises InputError for classes that are not known or not trusted, for arguments that they do not take, and for sizes
    beyond this machine's memory; then nothing was imported or allocated.
    """
    network_class, kwargs = resolve_architecture(arch_class_name, arch_kwargs, arch_kwargs_req_import, class_head, where)
    if network_class in OWN_NETWORKS.values():
        check_network_size(kwargs, LayerOps(kwargs["conv_op"]).n_dims, input_channels, output_channels, class_head, where)
    if deep_supervision is not None:
        kwargs["deep_supervision"] = deep_supervision
    if class_head is not None:
        kwargs["class_head"] = class_head

    try:
        network = network_class(input_channels=input_channels, num_classes=output_channels, **kwargs)
    except (ValueError, TypeError) as error:  # of a layer, which knows its argument and not where it stands
        raise InputError(f"{where}: {network_class.__name__} cannot be built from the plans' architecture: {error}. Correct it, or plan again.") from error
    if allow_init and hasattr(network, "initialize"):
        for module in network.modules():  # each once; network.apply would visit the aliases of a layer as well
            network.initialize(module)
    return network
