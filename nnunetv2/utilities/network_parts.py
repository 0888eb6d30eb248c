"""The networks and layers that plans may name, and what plans may tell them.

Plans name a network class, its layers' classes and their arguments. Each layer has a kind, and only classes of torch.nn of
this kind serve: a convolution where a convolution is due. A network of another package, with whatever layers it takes, needs
the user's trust (utilities/trusted_names.py).
"""

import inspect
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from torch import nn
from torch.nn.modules import activation, batchnorm, conv, dropout, instancenorm, linear, normalization, padding, pooling, upsampling

from dynamic_network_architectures.architectures import unet
from dynamic_network_architectures.building_blocks import class_head as class_head_module
from dynamic_network_architectures.building_blocks import residual
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.trusted_names import is_trusted, plain_arguments, resolve

OWN_NETWORKS = {network.__name__: network for network in (unet.PlainConvUNet, unet.ResidualEncoderUNet)}
# Plans of different ages name different modules for the same class; the last part tells which one is meant.
_HOMES_OF_OWN_NETWORKS = ("dynamic_network_architectures.", "nnunetv2.")


def _layers(*modules: ModuleType, base: type | tuple[type, ...] = nn.Module) -> dict[str, type[nn.Module]]:
    """Every class of these modules under its paths; lazy layers, which have no shape yet, and attention are left out."""
    layers = {}
    for module in modules:
        for name in module.__all__:
            layer = getattr(module, name)
            if issubclass(layer, base) and not name.startswith("Lazy") and layer is not nn.MultiheadAttention:
                layers |= {f"{home}.{name}": layer for home in ("torch.nn", "torch.nn.modules", module.__name__)}
    return layers


_IDENTITY = {"torch.nn.Identity": nn.Identity, "torch.nn.modules.linear.Identity": nn.Identity}
KINDS: dict[str, Mapping[str, type[nn.Module]]] = {
    "conv_op": _layers(conv, base=(nn.Conv1d, nn.Conv2d, nn.Conv3d)),
    "norm_op": _layers(batchnorm, instancenorm, normalization) | _IDENTITY,
    "dropout_op": _layers(dropout) | _IDENTITY,
    "nonlin": _layers(activation) | _IDENTITY,
    "block": {f"{residual.__name__}.{block.__name__}": block for block in (residual.BasicBlockD, residual.BottleneckD)},
}
# What a trusted network of another package may ask for under names of its own
ANY_LAYER = _layers(conv, batchnorm, instancenorm, normalization, dropout, activation, pooling, padding, upsampling, linear)
_PLACEMENT = ("device", "dtype", "process_group")  # where tensors lie is not for plans to say
_FILLED_BY_LAYER = {"norm_op": 1}  # positional arguments that the network itself gives


def resolve_architecture(class_name: object, arguments: Mapping[str, Any], imported: Sequence[str], class_head: Mapping | None,
                         where: object) -> tuple[type[nn.Module], dict[str, Any]]:
    """The network class that plans name and its keyword arguments, layers as classes.

    Args:
        imported: keys of `arguments` whose value is the path of a class, or None.
        where: the file, for messages.
    Raises:
        InputError: a class is neither known nor trusted or of another kind; an argument is not known or no plain value.
    """
    network = _resolve_network(class_name, where)
    own = network in OWN_NETWORKS.values()
    if not isinstance(arguments, Mapping) or not isinstance(imported, (list, tuple)) or not all(isinstance(key, str) for key in imported):
        raise InputError(f"{where}: 'arch_kwargs' must be an object and '_kw_requires_import' a list of its keys.")
    values = dict(arguments)
    for key in imported:
        if values.get(key) is not None:
            values[key] = resolve(values[key], key, where, KINDS.get(key, {} if own else ANY_LAYER), _is_layer)
    if own:
        _check_arguments(network, values, class_head, where)
    return network, values


def _resolve_network(class_name: object, where: object) -> type[nn.Module]:
    if isinstance(class_name, str) and not is_trusted(class_name):
        name = class_name.rpartition(".")[2]
        if name in OWN_NETWORKS and class_name.startswith(_HOMES_OF_OWN_NETWORKS):
            return OWN_NETWORKS[name]
    known = {f"{unet.__name__}.{name}": network for name, network in OWN_NETWORKS.items()}
    return resolve(class_name, "network_class_name", where, known, _is_layer)


def _is_layer(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, nn.Module)


def _check_arguments(network: type[nn.Module], values: Mapping[str, Any], class_head: Mapping | None, where: object) -> None:
    """Every argument of one of our networks and of its layers, before any of them is made."""
    plain = {key: value for key, value in values.items() if key not in KINDS and not key.endswith("_kwargs")}
    classes = {key: value for key, value in values.items() if key in KINDS}
    optional = ("norm_op", "dropout_op", "nonlin")
    if wrong := [f"{key} {value!r}" for key, value in classes.items() if not _is_layer(value) and not (value is None and key in optional)]:
        raise InputError(f"{where}: {', '.join(wrong)} must be the path of a class and be listed in '_kw_requires_import'.")
    given = ("input_channels", "num_classes", "class_head")
    plain_arguments(network, plain, "arch_kwargs", where, given)
    for key in values.keys() - plain.keys() - classes.keys():
        layer = classes.get(key.removesuffix("_kwargs"))
        if key not in inspect.signature(network).parameters:
            raise InputError(f"{where}: arch_kwargs has {key!r}, which {network.__name__} does not take.")
        if layer is not None:
            parameters = list(inspect.signature(layer).parameters)
            filled = parameters[: _FILLED_BY_LAYER.get(key.removesuffix("_kwargs"), 0)]
            plain_arguments(layer, values[key], key, where, {*filled, *_PLACEMENT})
    required = {name for name, parameter in inspect.signature(network).parameters.items() if parameter.default is parameter.empty}
    if missing := sorted(required - values.keys() - {*given}):
        raise InputError(f"{where}: arch_kwargs lacks {', '.join(missing)}, which {network.__name__} needs.")
    if class_head is not None:
        _check_class_head(class_head, where)


def _check_class_head(description: Mapping, where: object) -> None:
    parameters = inspect.signature(class_head_module.ClassHead).parameters
    described = {name for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}
    if not isinstance(description, Mapping):
        raise InputError(f"{where}: 'class_head' is {description!r}; it must be an object.")
    regions = description.get("regions")
    if not isinstance(regions, Mapping):
        raise InputError(f"{where}: class_head, 'regions' is {regions!r}; it must be an object of names and lists of labels.")
    plain_arguments(class_head_module.ClassHead, {key: value for key, value in description.items() if key != "regions"}, "class_head", where,
                    parameters.keys() - described)
    required = {name for name in described if parameters[name].default is inspect.Parameter.empty}
    if missing := sorted(required - description.keys()):
        raise InputError(f"{where}: class_head lacks {', '.join(missing)}. Plan the dataset again, or restore the file.")
