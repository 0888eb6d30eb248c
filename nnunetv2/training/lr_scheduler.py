"""Polynomial learning rate decay: lr(t) = lr(0) * (1 - t / T) ** 0.9 (Chen et al. 2018, DeepLab)."""

from torch.optim import Optimizer


class PolyLRScheduler:
    """Sets the rate of every parameter group by the step asked for, so a resumed run cannot jump.

    `initial_lr` serves groups without an `initial_lr` of their own.
    """

    def __init__(self, optimizer: Optimizer, initial_lr: float, max_steps: int, exponent: float = 0.9):
        self.optimizer, self.max_steps, self.exponent = optimizer, max_steps, exponent
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", initial_lr)

    def step(self, current_step: int) -> None:
        if not 0 <= current_step <= self.max_steps:
            raise ValueError(f"Step {current_step} is outside 0..{self.max_steps}.")
        factor = (1 - current_step / self.max_steps) ** self.exponent
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
