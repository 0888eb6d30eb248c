"""Steps that were not taken because a gradient was not finite: a few are part of half precision, many in a row end the training."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from nnunetv2.training.logging import TrainingLog
from nnunetv2.utilities.errors import name_some

MOST_IN_A_ROW = 100  # the loss scale, which half precision starts too high, has found its place after a dozen
CASES_NAMED = 5


class BadSteps:
    """Counts skipped steps over epochs. The training keeps its weights, optimisers and statistics as they were before each."""

    def __init__(self) -> None:
        self.in_a_row = 0

    def count(self, outputs: Sequence[Mapping], network: nn.Module, log: TrainingLog, epoch: int) -> None:
        """Look at an epoch's steps: outputs hold "taken" () bool and "keys", the batch's cases.

        Raises FloatingPointError after MOST_IN_A_ROW skipped steps, or when weights or statistics are not finite.
        """
        taken = torch.stack([output["taken"] for output in outputs]).tolist()
        worst = 0
        for one in taken:
            self.in_a_row = 0 if one else self.in_a_row + 1
            worst = max(worst, self.in_a_row)
        cases = sorted({key for output, one in zip(outputs, taken) if not one for key in output["keys"]})
        named = name_some(cases, CASES_NAMED)
        if cases:
            log.print(f"Epoch {epoch}: {taken.count(False)} of {len(taken)} steps skipped, their gradients were not finite (cases {named}).")
        broken = [name for name, value in network.state_dict().items() if value.is_floating_point() and not torch.isfinite(value).all()]
        if broken:
            raise FloatingPointError(f"Epoch {epoch}: {len(broken)} of the network's tensors are not finite: {', '.join(broken[:CASES_NAMED])}. The last "
                                     "checkpoint is untouched. Lower initial_lr and start anew; going on with --c ends here again.")
        if worst >= MOST_IN_A_ROW:
            raise FloatingPointError(f"Epoch {epoch}: {worst} steps in a row had gradients that are not finite (cases {named}). The last checkpoint is "
                                     "untouched. Look for wrong intensities or labels in these cases, preprocess them again, or lower initial_lr; "
                                     "going on with --c without a change ends here again.")
