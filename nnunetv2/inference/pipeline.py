"""Cases through three stages that overlap: reading and preprocessing, the network, export. Threads, no processes.

All three spend their time in libraries that release Python's global lock, and threads share memory: nothing is pickled and no
interpreter starts. The number of cases in flight is bounded, so memory is. A case is known by its position: two may have one name.
"""

import time
import traceback
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nnunetv2.inference.watch import PredictionCancelled
from nnunetv2.utilities import errors


@dataclass(frozen=True)
class Case:
    """One case to predict. `output` has no file ending; None returns the result instead of writing it."""

    name: str
    images: tuple[str, ...]  # a file per channel
    output: Path | None
    previous_stage: Path | None = None  # segmentation that a cascade refines
    position: int = 0  # among the cases of the run
    distinct_name: str = ""  # where the name is another case's too

    @property
    def files_read(self) -> tuple[str, ...]:
        """What the result is made from, the previous stage's mask last."""
        return self.images if self.previous_stage is None else (*self.images, str(self.previous_stage))

    @property
    def label(self) -> str:
        """What messages and reports call it."""
        return self.distinct_name or self.name


class StageTimes:
    """Seconds by case and stage. Stages of different cases overlap, so their sum exceeds the wall time."""

    def __init__(self) -> None:
        self.seconds: dict[str, dict[str, float]] = defaultdict(dict)

    @contextmanager
    def stage(self, case: str, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[case][name] = round(time.perf_counter() - start, 4)


class CasesFailed(errors.CasesFailed):
    """Some cases could not be predicted; the others were. `failures` maps their labels to what happened.

    results: those of all cases in their order, None for failed ones. not_begun: how many were left because the disk is full.
    unwritten: {file of the run: why it could not be written}.
    """

    def __init__(self, failures: Mapping[str, Exception], n_cases: int, results: Sequence[Any] = (), not_begun: int = 0,
                 unwritten: Mapping[str, OSError] | None = None) -> None:
        self.failures, self.results, self.not_begun, self.unwritten = dict(failures), list(results), not_begun, dict(unwritten or {})
        lines = []
        if failures:
            rest = "the others are done" if not not_begun else f"{not_begun} more were not begun, because the disk takes no more; the others are done"
            lines = [f"{len(failures)} of {n_cases} case(s) failed, {rest}:",
                     errors.list_some([f"{label}: {_reason(error)}" for label, error in failures.items()])]
        if unwritten:
            lines += ["These files of the run could not be written:", *(f"  {name}: {_reason(error)}" for name, error in unwritten.items())]
        super().__init__("\n".join(lines))


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None or isinstance(error, errors.InputError):
        return errors.in_one_message(error)
    return f"{type(error).__name__}: {error}"


class _Inline(Executor):
    """Runs a function at once, in the caller's thread."""

    def submit(self, function: Callable, /, *args: Any, **kwargs: Any) -> Future:
        future: Future = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def let_go_of_variables(error: BaseException | None) -> None:
    """Of the functions that `error` and its causes went through: they would hold image, logits and all that a GPU had allocated for as long as
    the error is kept, and the next cases would lack that memory. Its traceback can still be printed."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def refuse_thread_counts(readers: int, writers: int = 0) -> None:
    if min(readers, writers) < 0:
        raise errors.InputError(f"{readers} preprocessing and {writers} export threads; the least is 0, one case after the other.")


def _workers(number: int, name: str) -> Executor:
    return ThreadPoolExecutor(number, name) if number else _Inline()


@dataclass
class Pipeline:
    """prepare(case) -> (data, properties); predict(case, data) -> prediction; export(case, properties, prediction) -> result.

    prepare runs in `readers` threads, up to as many cases ahead; export in `writers` threads, with at most one more waiting.
    predict runs in the caller's thread, and so does what has 0 threads: then one case is done before the next is begun.
    """

    prepare: Callable[[Case], tuple[Any, Any]]
    predict: Callable[[Case, Any], Any]
    export: Callable[[Case, Any, Any], Any]
    readers: int = 1
    writers: int = 1
    progress: bool = True
    _failed: dict[int, tuple[Case, Exception]] = field(default_factory=dict, init=False)
    _full_in_a_row: int = field(default=0, init=False)

    def run(self, cases: Iterable[Case], n_cases: int | None = None) -> list[Any]:
        """Results in the order of `cases`, None for failed ones; raises CasesFailed after the last if there are any.

        n_cases: how many an iterator is going to give, for the progress bar. When it is interrupted or cancelled, cases that the
        network is through with are exported before the exception goes on.
        """
        if n_cases is None and isinstance(cases, Sequence):
            n_cases = len(cases)
        self._failed, self._full_in_a_row = {}, 0
        results: dict[int, Any] = {}
        exports: deque[tuple[int, Case, Future]] = deque()
        ahead: deque[tuple[int, Case, Future]] = deque()
        waiting = enumerate(cases)
        with (_workers(self.readers, "read") as reading, _workers(self.writers, "export") as writing,
              tqdm(total=n_cases, desc="cases", disable=not self.progress) as bar):
            def read(number: int) -> None:
                ahead.extend((position, case, reading.submit(self.prepare, case)) for position, case in islice(waiting, number))

            try:
                read(max(1, self.readers))
                while ahead and self._full_in_a_row < errors.FULL_IN_A_ROW:
                    position, case, prepared = ahead.popleft()
                    data, properties = self._outcome(position, case, prepared) or (None, None)
                    if self.readers:
                        read(1)
                    results[position] = None
                    if position not in self._failed:
                        self._predict_and_send(position, case, data, properties, writing, exports)
                    del data, prepared  # the image is not needed any more, and may be large
                    while len(exports) > self.writers:
                        self._collect(exports, results)
                    bar.update()
                    if not ahead:
                        read(1)
                while exports:
                    self._collect(exports, results)
            except BaseException:  # interrupted: what has not begun shall not begin
                reading.shutdown(wait=False, cancel_futures=True)
                while exports:
                    self._collect(exports, results)
                raise
            reading.shutdown(wait=False, cancel_futures=True)
        if self._failed:
            total = max(n_cases or 0, len(results))
            raise CasesFailed(self._failures_by_label(), total, [results.get(i) for i in range(total)], total - len(results))
        return [results[position] for position in sorted(results)]

    def _predict_and_send(self, position: int, case: Case, data: Any, properties: Any, writing: Executor, exports: deque) -> None:
        try:
            prediction = self.predict(case, data)
        except PredictionCancelled:
            raise
        except Exception as error:
            self._note(position, case, error)
        else:
            exports.append((position, case, writing.submit(self.export, case, properties, prediction)))

    def _collect(self, exports: deque, results: dict[int, Any]) -> None:
        position, case, export = exports.popleft()
        results[position] = self._outcome(position, case, export)
        failed = self._failed.get(position)
        self._full_in_a_row = self._full_in_a_row + 1 if failed is not None and errors.takes_no_more(failed[1]) else 0

    def _outcome(self, position: int, case: Case, future: Future) -> Any:
        """What a thread returned; None, and a failure noted, if it raised."""
        try:
            return future.result()
        except PredictionCancelled:
            raise
        except Exception as error:
            self._note(position, case, error)
            return None

    def _note(self, position: int, case: Case, error: Exception) -> None:
        self._failed[position] = case, error
        let_go_of_variables(error)

    def _failures_by_label(self) -> dict[str, Exception]:
        failures: dict[str, Exception] = {}
        for position, (case, error) in sorted(self._failed.items()):
            failures[case.label if case.label not in failures else f"{case.label} (case {position + 1})"] = error
        return failures
