"""Learning rates as functions of the epoch asked for, so a resumed run cannot jump."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer


class EpochScheduler:
    """Sets every parameter group to `factor(step)` times its own `initial_lr`; `initial_lr` serves groups without one."""

    def __init__(self, optimizer: Optimizer, initial_lr: float, factor: Callable[[float], float]):
        self.optimizer, self.initial_lr, self.factor = optimizer, initial_lr, factor
        self.next_step = 0

    def step(self, current_step: float | None = None) -> None:
        """Without a step, or with nnU-Net's -1: the one after the last. Parts of an epoch are asked for where the rate changes within it."""
        if current_step is None or current_step == -1:
            current_step = self.next_step
        self.next_step = current_step + 1
        factor = self.factor(current_step)
        for group in self.optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", self.initial_lr) * factor

    def get_last_lr(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, float]:
        """As torch's schedules have it, for trainers that save theirs: where a schedule is follows from the epoch."""
        return {"next_step": self.next_step}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """State of this class; what nnU-Net's schedules wrote instead tells nothing that the next epoch does not."""
        self.next_step = state_dict.get("next_step", self.next_step)

    def change_length(self, before: int, after: int) -> None:
        """The training has `after` epochs in place of `before`; here for schedules whose end depends on that."""


def change_schedule(schedule: object, before: int, after: int) -> None:
    """Let a schedule of this package, or of torch, that was made for `before` epochs end with a training of `after`. What knows no end stays."""
    if hasattr(schedule, "change_length"):
        schedule.change_length(before, after)
        return
    for name in ("max_steps", "T_max", "total_iters"):  # the last two: torch's cosine and polynomial
        if getattr(schedule, name, None) == before:
            setattr(schedule, name, max(1, after))


class PolyLRScheduler(EpochScheduler):
    """Polynomial decay: lr(t) = lr(0) * (1 - t / T) ** 0.9 (Chen et al. 2018, DeepLab)."""

    def __init__(self, optimizer: Optimizer, initial_lr: float, max_steps: int, exponent: float = 0.9, current_step: int | None = None):
        self.max_steps, self.exponent = max_steps, exponent
        super().__init__(optimizer, initial_lr, self._factor)
        if current_step is not None:
            self.step(current_step)

    def change_length(self, before: int, after: int) -> None:
        self.max_steps = max(1, round(self.max_steps * after / max(1, before)))  # its steps may be parts of an epoch

    def _factor(self, step: int) -> float:
        if not 0 <= step <= self.max_steps:
            raise ValueError(f"Step {step} is outside 0..{self.max_steps}.")
        return (1 - step / self.max_steps) ** self.exponent


class PolyLRScheduler_offset(PolyLRScheduler):
    """Polynomial decay that begins at `start_step` and ends at `max_steps`; the full rate before."""

    def __init__(self, optimizer: Optimizer, initial_lr: float, max_steps: int, start_step: int, exponent: float = 0.9, current_step: int | None = None):
        self.start_step = start_step
        super().__init__(optimizer, initial_lr, max_steps - start_step, exponent, current_step)

    def change_length(self, before: int, after: int) -> None:
        whole = round((self.max_steps + self.start_step) * after / max(1, before))
        self.max_steps = max(1, whole - self.start_step)

    def _factor(self, step: int) -> float:
        return super()._factor(max(0, step - self.start_step))


class Lin_incr_LRScheduler(EpochScheduler):
    """Linear warm-up: lr(t) = max_lr * (t + 1) / T."""

    def __init__(self, optimizer: Optimizer, max_lr: float, max_steps: int, current_step: int | None = None):
        super().__init__(optimizer, max_lr, lambda step: (step + 1) / max_steps)
        if current_step is not None:
            self.step(current_step)


class Lin_incr_offset_LRScheduler(EpochScheduler):
    """Linear warm-up that begins at `start_step`."""

    def __init__(self, optimizer: Optimizer, max_lr: float, max_steps: int, start_step: int, current_step: int | None = None):
        super().__init__(optimizer, max_lr, lambda step: (step + 1 - start_step) / max_steps)
        if current_step is not None:
            self.step(current_step)


class CosineAnnealingLR_offset(EpochScheduler):
    """Half a cosine from the initial rate at `offset` to `eta_min` at `T_max` (Loshchilov and Hutter 2017, SGDR)."""

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0, last_epoch: int = -1, verbose: object = None, offset: int = 0):  # noqa: N803
        rate = optimizer.param_groups[0].get("initial_lr", optimizer.param_groups[0]["lr"])
        self.T_max, self.offset = T_max, offset

        def factor(step: int) -> float:
            return (eta_min + (rate - eta_min) * (1 + math.cos(math.pi * (step - offset) / (self.T_max - offset))) / 2) / rate

        super().__init__(optimizer, rate, factor)
        self.next_step = last_epoch + 1

    def change_length(self, before: int, after: int) -> None:
        self.T_max = max(self.offset + 1, round(self.T_max * after / max(1, before)))
