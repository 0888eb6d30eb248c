"""Weights at the start of training."""

from torch import nn

from dynamic_network_architectures.building_blocks.residual import ResidualBlock


def initialize_he(module: nn.Module, negative_slope: float = 1e-2) -> None:
    """Kaiming-normal weights for a leaky ReLU and zero bias, if `module` is a convolution (He et al. 2015)."""
    if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        nn.init.kaiming_normal_(module.weight, a=negative_slope)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def initialize_residual_as_skip(module: nn.Module) -> None:
    """Zero the last norm of a residual block, so that it starts as its skip (Goyal et al. 2017, sec. 5.1)."""
    if isinstance(module, ResidualBlock):
        for parameter in getattr(module.layers[-1], "norm", nn.Identity()).parameters():
            nn.init.zeros_(parameter)
