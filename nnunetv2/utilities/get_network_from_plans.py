"""Build the network that a plans file describes."""

import pydoc
from collections.abc import Sequence
from typing import Any

from torch import nn

from dynamic_network_architectures.architectures import unet


def get_network_from_plans(arch_class_name: str, arch_kwargs: dict[str, Any], arch_kwargs_req_import: Sequence[str],
                           input_channels: int, output_channels: int, allow_init: bool = True,
                           deep_supervision: bool | None = None, class_head: dict | None = None) -> nn.Module:
    """Network from `configurations[c]["architecture"]` of a plans file.

    arch_class_name: dotted path of the class. If the path is unknown, its last part is looked up in
    dynamic_network_architectures.architectures.unet, because plans of different ages name different modules.
    arch_kwargs_req_import: keys of `arch_kwargs` whose values are dotted paths themselves ("torch.nn.Conv3d", or None).
    allow_init: draw initial weights; leave it out where a checkpoint overwrites them (2 s for a large network).
    deep_supervision: overrides `arch_kwargs` unless None. class_head: architecture["class_head"], or None.
    """
    network_class = pydoc.locate(arch_class_name) or getattr(unet, arch_class_name.rpartition(".")[2], None)
    if not (isinstance(network_class, type) and issubclass(network_class, nn.Module)):
        raise ImportError(f"The plans ask for network class {arch_class_name}, which is not installed here. "
                          f"Known are {unet.__name__}.PlainConvUNet and {unet.__name__}.ResidualEncoderUNet.")

    kwargs = dict(arch_kwargs)
    for key in arch_kwargs_req_import:
        path = kwargs.get(key)
        if path is not None:
            kwargs[key] = pydoc.locate(path)
            if kwargs[key] is None:
                raise ImportError(f"The plans set {key} to {path}, which cannot be imported.")
    if deep_supervision is not None:
        kwargs["deep_supervision"] = deep_supervision
    if class_head is not None:
        kwargs["class_head"] = class_head

    network = network_class(input_channels=input_channels, num_classes=output_channels, **kwargs)
    if allow_init and hasattr(network, "initialize"):
        for module in network.modules():  # each once; network.apply would visit the aliases of a layer as well
            network.initialize(module)
    return network
