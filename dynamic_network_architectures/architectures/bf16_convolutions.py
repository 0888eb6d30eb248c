"""Which convolutions a CPU computes rightly in bf16: each shape is tried beside float32 before a training trusts it.

oneDNN's code for AVX-512 BF16 leaves the gradients of a 3 x 3 x 3 kernel's weights unwritten where the input is two slices deep: whatever
lay in memory goes into the weights. The deepest convolutions of a U-Net are of this kind for many patches.
"""

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dynamic_network_architectures.building_blocks.conv_blocks import ConvNormNonlin
from dynamic_network_architectures.building_blocks.norm_nonlin import layout_of

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
TOLERANCE = 0.1  # of the norm of each output and gradient; rounding costs .003


def trust_bf16(network: nn.Module, batch: tuple[int, ...]) -> bool:
    """Set `conv_in_float32`, in place, on the layers of `network` whose convolutions come out wrong in bf16 on batches of shape (B, C, *spatial).

    False where another convolution than those of a ConvNormNonlin is wrong: then the network must not be trained in bf16.
    """
    layers = {module.conv: module for module in network.modules() if isinstance(module, ConvNormNonlin)}
    inputs = _inputs(network, batch)
    kinds = {(str(conv), *of_input): conv for conv, *of_input in inputs}
    right = {kind: _right_in_bf16(conv, *kind[1:]) for kind, conv in tqdm(kinds.items(), "bf16 tried", leave=False, disable=None)}
    wrong = {conv for conv, *of_input in inputs if not right[(str(conv), *of_input)]}
    for conv in wrong & layers.keys():
        layers[conv].conv_in_float32 = True
    return wrong <= layers.keys()


def _inputs(network: nn.Module, batch: tuple[int, ...]) -> list[tuple[nn.Module, tuple[int, ...], torch.memory_format]]:
    """The convolutions that a batch goes through, each with shape and layout of what it gets; what else the network counts or keeps stays as it is."""
    found: list[tuple[nn.Module, tuple[int, ...], torch.memory_format]] = []
    hooks = [module.register_forward_pre_hook(lambda conv, inputs: found.append((conv, tuple(inputs[0].shape), layout_of(inputs[0]))))
             for module in network.modules() if isinstance(module, CONVOLUTIONS)]
    training = network.training
    network.eval()  # running statistics stay as they are
    try:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            network(torch.zeros(batch))
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return found


def _right_in_bf16(conv: nn.Module, shape: tuple[int, ...], layout: torch.memory_format) -> bool:
    values = torch.Generator().manual_seed(0)  # of its own: the training's random numbers stay as they are
    with torch.inference_mode(False), torch.enable_grad():  # whoever asks, gradients are what is tried
        x = torch.randn(shape, generator=values).contiguous(memory_format=layout)
        exact = _results(conv, x, None, bf16=False)
        rounded = _results(conv, x, exact[0], bf16=True)
    # written so that NaN is wrong
    return all(float((a - b).norm()) <= TOLERANCE * float(a.norm()) for a, b in zip(exact, rounded, strict=True))


def _results(conv: nn.Module, x: Tensor, gradient: Tensor | None, bf16: bool) -> list[Tensor]:
    """The output, and by `gradient` of it (None: the output itself) the gradients of the weights and of x."""
    x, frozen = x.detach().requires_grad_(), not conv.weight.requires_grad
    if frozen:  # tried all the same: other layers of this shape may learn
        conv.weight.requires_grad_(True)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            y = conv(x).float()
        return [y.detach(), *torch.autograd.grad(y, (conv.weight, x), y.detach() if gradient is None else gradient)]
    finally:
        if frozen:
            conv.weight.requires_grad_(False)
