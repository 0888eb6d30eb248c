"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) for the weights of convolutions, AdamW for everything else.

torch.optim.Muon takes matrices alone. A convolution's weight is one here: a row per output channel (of transposed convolutions: per input channel).
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

QUINTIC = 3.4445, -4.7750, 2.0315  # Jordan's coefficients: they take singular values between about .01 and 1 to about 1 in five steps
STEPS = 5
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
MATCH_ADAMW = 0.2  # of the update's root mean square, as AdamW's (Liu et al. 2025, arXiv 2502.16982, section 2.2): both take the same rate


def orthogonalised(weight: Tensor) -> Tensor:
    """Of shape (rows, ...), taken as a matrix: the same singular vectors, singular values near 1 (very small ones less). Zeros stay zeros.

    The Newton-Schulz steps work on the small matrix of products of rows, so that the weight itself is multiplied only twice.
    """
    matrix = weight.flatten(1).float()
    matrix = matrix / matrix.norm().clamp(min=1e-7)
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    products = wide @ wide.T
    step = total = _quintic(products)
    for _ in range(STEPS - 1):  # all three are polynomials of the same matrix, so their order does not matter
        products = step @ products @ step
        step = _quintic(products)
        total = step @ total
    wide = total @ wide
    return (wide if matrix.shape[0] <= matrix.shape[1] else wide.T).reshape(weight.shape).to(weight.dtype)


def _quintic(products: Tensor) -> Tensor:
    """What a step multiplies a matrix by whose rows have these products."""
    a, b, c = QUINTIC
    return a * torch.eye(len(products), device=products.device) + b * products + c * products @ products


def split(network: nn.Module, parameters: Iterable[nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Of `parameters`, the weights of the network's convolutions, and the others: biases, normalisation, and the layers that make the segmentation."""
    weights = {id(module.weight) for name, module in network.named_modules() if isinstance(module, CONVOLUTIONS) and "seg_layers" not in name}
    convolutions, others = [], []
    for parameter in parameters:
        (convolutions if id(parameter) in weights else others).append(parameter)
    return convolutions, others


class Muon(torch.optim.Optimizer):
    """One learning rate for both kinds of parameters.

    Parameters
    ----------
    convolutions: of shape (rows, ...), at least two-dimensional; Muon with Nesterov's momentum moves them.
    others: of any shape; AdamW (Loshchilov and Hutter 2019) moves them.
    weight_decay: decoupled, of both kinds.
    """

    def __init__(self, convolutions: Iterable[nn.Parameter], others: Iterable[nn.Parameter], lr: float = 1e-3, weight_decay: float = 1e-2,
                 momentum: float = 0.95, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8):
        groups = [{"params": list(convolutions), "muon": True}, {"params": list(others), "muon": False}]
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas, "eps": eps}
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            move = self._by_muon if group["muon"] else self._by_adamw
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    move(parameter, parameter.grad, group)
        return loss

    def _by_muon(self, parameter: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
        rows = parameter.shape[0]
        size = MATCH_ADAMW * max(rows, parameter.numel() // rows) ** 0.5  # an orthogonal matrix of m x n has the RMS 1 / sqrt(max(m, n))
        parameter.add_(orthogonalised(gradient.add(buffer, alpha=group["momentum"])), alpha=-group["lr"] * size)

    def _by_adamw(self, parameter: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        if not state:
            state.update(step=0, exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(parameter))
        state["step"] += 1
        state["exp_avg"].lerp_(gradient, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        spread = (state["exp_avg_sq"] / (1 - beta2 ** state["step"])).sqrt_().add_(group["eps"])
        parameter.addcdiv_(state["exp_avg"], spread, value=-group["lr"] / (1 - beta1 ** state["step"]))
