"""Cases through three stages that overlap: reading and preprocessing, the network, export. Threads, no processes.

All three spend their time in libraries that release Python's global lock, and threads share memory: nothing is pickled and no
interpreter starts. The number of cases in flight is bounded, so memory is.
"""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm


@dataclass(frozen=True)
class Case:
    """One case to predict. `output` has no file ending; None returns the result instead of writing it."""

    name: str
    images: tuple[str, ...]  # a file per channel
    output: Path | None
    previous_stage: Path | None = None  # segmentation that a cascade refines


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


class CasesFailed(RuntimeError):
    """Some cases could not be predicted; the others were. `failures` maps their names to what happened."""

    def __init__(self, failures: dict[str, Exception], n_cases: int) -> None:
        self.failures = failures
        lines = "\n".join(f"  {name}: {type(error).__name__}: {error}" for name, error in failures.items())
        super().__init__(f"{len(failures)} of {n_cases} case(s) failed, the others are done:\n{lines}")


@dataclass
class Pipeline:
    """prepare(case) -> (data, properties); predict(case, data) -> prediction; export(case, properties, prediction) -> result.

    prepare runs in `readers` threads, up to as many cases ahead; export in `writers` threads, with at most one more waiting.
    predict runs in the caller's thread.
    """

    prepare: Callable[[Case], tuple[Any, Any]]
    predict: Callable[[Case, Any], Any]
    export: Callable[[Case, Any, Any], Any]
    readers: int = 1
    writers: int = 1
    progress: bool = True
    failures: dict[str, Exception] = field(default_factory=dict)

    def run(self, cases: Sequence[Case]) -> list[Any]:
        """Results in the order of `cases`, None for failed ones; raises CasesFailed after the last if there are any."""
        results: dict[str, Any] = {}
        exports: deque[tuple[Case, Future]] = deque()
        waiting = iter(cases)
        with (ThreadPoolExecutor(self.readers, "read") as reading, ThreadPoolExecutor(self.writers, "export") as writing,
              tqdm(total=len(cases), desc="cases", disable=not self.progress) as bar):
            try:
                ahead = deque((case, reading.submit(self.prepare, case)) for case in islice(waiting, self.readers))
                while ahead:
                    case, prepared = ahead.popleft()
                    data, properties = self._result(case, prepared) or (None, None)
                    if (following := next(waiting, None)) is not None:
                        ahead.append((following, reading.submit(self.prepare, following)))
                    if case.name not in self.failures:
                        self._predict_and_send(case, data, properties, writing, exports)
                    del data, prepared  # the image is not needed any more, and may be large
                    while len(exports) > self.writers:
                        done, export = exports.popleft()
                        results[done.name] = self._result(done, export)
                    bar.update()
                for done, export in exports:
                    results[done.name] = self._result(done, export)
            except BaseException:  # interrupted: what has not begun shall not begin
                reading.shutdown(wait=False, cancel_futures=True)
                writing.shutdown(wait=False, cancel_futures=True)
                raise
        if self.failures:
            raise CasesFailed(self.failures, len(cases))
        return [results[case.name] for case in cases]

    def _predict_and_send(self, case: Case, data: Any, properties: Any, writing: ThreadPoolExecutor, exports: deque) -> None:
        try:
            prediction = self.predict(case, data)
        except Exception as error:
            self.failures[case.name] = error
        else:
            exports.append((case, writing.submit(self.export, case, properties, prediction)))

    def _result(self, case: Case, future: Future) -> Any:
        """What a thread returned; None, and a failure noted, if it raised."""
        try:
            return future.result()
        except Exception as error:
            self.failures[case.name] = error
            return None
