"""Instance normalisation and leaky ReLU as one step of a training on a CPU, on tensors of either layout.

torch's own instance normalisation copies channels-last tensors to the other layout and back. It returns a view, and a leaky ReLU that
changes a view in place costs further copies on the way back. Batch normalisation of one item over its voxels is the same and needs none.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def norm_nonlin(x: Tensor, norm: nn.Module, slope: float) -> Tensor:
    """leaky_relu(norm(x), slope) of x (B, C, *spatial) with more than one voxel, in x's type and layout; slope 1: the norm alone.

    norm: an instance normalisation for which `has_norm_nonlin` holds. slope is above 0, so that the result's sign tells the input's.
    """
    return _NormNonlin.apply(x, norm.weight, norm.bias, norm.eps, slope)


def has_norm_nonlin(norm: nn.Module | None, nonlin: nn.Module | None) -> bool:
    """Whether `norm_nonlin` computes what these two do: an instance normalisation with weights, and leaky ReLU or nothing."""
    return (type(norm) in (nn.InstanceNorm2d, nn.InstanceNorm3d) and norm.affine and not norm.track_running_stats
            and (nonlin is None or type(nonlin) is nn.LeakyReLU and nonlin.negative_slope > 0))


class _NormNonlin(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float) -> Tensor:
        layout = layout_of(x)
        x = x.contiguous(memory_format=layout)
        y = torch.empty_like(x)
        moments = [weight.new_empty(0) for _ in range(2 * len(x))]  # mean and 1 / deviation of each item
        for i, (item, out) in enumerate(zip(x.split(1), y.split(1))):
            torch.native_batch_norm(item, weight, bias, None, None, True, 0.0, eps, out=(out, moments[2 * i], moments[2 * i + 1]))
        if slope != 1:
            nn.functional.leaky_relu_(y, slope)
        ctx.save_for_backward(x, weight, y if slope != 1 else None, *moments)
        ctx.eps, ctx.slope, ctx.layout = eps, slope, layout
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y, *moments = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=ctx.layout)
        if y is not None:
            gradient = torch.ops.aten.leaky_relu_backward(gradient, y, ctx.slope, True)
        of_x = torch.empty_like(x)
        of_weight, of_bias = torch.zeros_like(weight), torch.zeros_like(weight)
        for i, (item, above, out) in enumerate(zip(x.split(1), gradient.split(1), of_x.split(1))):
            item_weight, item_bias = torch.empty_like(weight), torch.empty_like(weight)
            torch.ops.aten.native_batch_norm_backward.out(
                above, item, weight, None, None, moments[2 * i], moments[2 * i + 1], True, ctx.eps, [True, True, True],
                out0=out, out1=item_weight, out2=item_bias)
            of_weight, of_bias = of_weight + item_weight, of_bias + item_bias
        return of_x, of_weight, of_bias, None, None


def layout_of(x: Tensor) -> torch.memory_format:
    """Channels last where x (B, C, *spatial) is so and not otherwise contiguous."""
    last = CHANNELS_LAST.get(x.ndim)
    return last if last is not None and x.is_contiguous(memory_format=last) and not x.is_contiguous() else torch.contiguous_format
