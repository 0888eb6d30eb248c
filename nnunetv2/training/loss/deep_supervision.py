"""Deep supervision: the same loss on several resolutions."""

from collections.abc import Sequence

from torch import Tensor, nn


class DeepSupervisionWrapper(nn.Module):
    """sum_i weight_factors[i] * loss(outputs[i], targets[i]); resolutions of weight 0 are not computed.

    weight_factors: one per resolution, finest first; None: all 1.
    """

    def __init__(self, loss: nn.Module, weight_factors: Sequence[float] | None = None):
        super().__init__()
        if weight_factors is not None and not any(weight_factors):
            raise ValueError(f"at least one weight of deep supervision must differ from 0: {list(weight_factors)}")
        self.loss = loss
        self.weight_factors = None if weight_factors is None else tuple(weight_factors)

    def forward(self, *args: Sequence[Tensor]) -> Tensor:
        """Each argument of the wrapped loss as a list over resolutions."""
        for arg in args:
            assert isinstance(arg, (list, tuple)), f"deep supervision takes lists of tensors, not {type(arg).__name__}"
        weights = self.weight_factors or (1.0,) * len(args[0])
        return sum(weight * self.loss(*inputs) for weight, *inputs in zip(weights, *args) if weight != 0)
