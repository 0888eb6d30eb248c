"""What a caller sees of a running prediction, and how it ends one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Event

from nnunetv2.utilities.errors import InputError

STAGES = ("read", "preprocess", "network", "classify", "resample", "write")  # of a case, in this order; arrays are not read, results that are returned not written
ENDS_BEFORE = STAGES[:3]  # what the network is through with is brought to its end
Cancelled = Event | Callable[[], bool]


class PredictionCancelled(Exception):
    """The caller asked for the end. Cases that the network was through with are written."""


@dataclass(frozen=True)
class Progress:
    """Where a prediction is. Stages of different cases overlap, so calls about several cases may alternate."""

    case: str
    position: int  # among the cases that this call predicts, from 0
    n_cases: int | None  # None where an iterator does not tell
    stage: str  # one of STAGES
    done: int  # parts of the stage: windows of the network, otherwise 0 or 1
    of: int


class Watch:
    """Tells `progress` of each part and raises PredictionCancelled once `cancelled` is set or returns True.

    progress: called from the threads that read, predict and export; what it raises ends the case. cancelled: looked at before a
    case is read, preprocessed and predicted, and between two windows of the network.
    """

    def __init__(self, progress: Callable[[Progress], None] | None = None, cancelled: Cancelled | None = None,
                 n_cases: int | None = 1, order: Mapping[int, int] | None = None) -> None:
        """order: {position of a case: its place among the n_cases}, where some of all cases are not predicted."""
        for name, given in (("progress", progress), ("cancelled", cancelled)):
            if given is not None and not callable(given) and not hasattr(given, "is_set"):
                raise InputError(f"{name} is {given!r}; give a function{', or a threading.Event' if name == 'cancelled' else ''}.")
        self._tell, self.n_cases, self._order = progress, n_cases, order or {}
        self._cancelled = cancelled.is_set if hasattr(cancelled, "is_set") else cancelled

    def part(self, case: str, position: int, stage: str, done: int, of: int) -> None:
        if stage in ENDS_BEFORE and self._cancelled is not None and self._cancelled():
            raise PredictionCancelled(f"{case}: cancelled at the stage {stage!r}.")
        if self._tell is not None:
            self._tell(Progress(case, self._order.get(position, position), self.n_cases, stage, done, of))
