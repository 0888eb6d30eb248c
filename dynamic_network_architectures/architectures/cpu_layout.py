"""A network in the layout that a CPU's convolutions compute in; experiments/training_step.py measures what it brings."""

from torch import nn

from dynamic_network_architectures.architectures.unet import UNet
from dynamic_network_architectures.building_blocks.conv_blocks import ConvNormNonlin
from dynamic_network_architectures.building_blocks.norm_nonlin import CHANNELS_LAST


def lay_out_for_cpu(network: nn.Module) -> bool:
    """Change `network`, in place, into one that computes the same faster on a CPU; False where it is none of this package's U-Nets.

    Names, weights and results in fp32 stay as they are, the last but for rounding. A network of somebody else is left alone: it may look at
    tensors in ways that another layout forbids, and have layers without code in bf16.
    """
    if not isinstance(network, UNet):
        return False
    for module in network.modules():
        if isinstance(module, ConvNormNonlin) and module.can_be_in_one_step():
            module.in_one_step = True
    to_channels_last(network)
    return True


def to_channels_last(network: nn.Module) -> None:
    """Lay out the weights of 2D and 3D convolutions, in place, so that what comes out of them has its channels last."""
    n_dims = max((parameter.ndim for parameter in network.parameters()), default=0)
    if n_dims in CHANNELS_LAST:
        network.to(memory_format=CHANNELS_LAST[n_dims])
