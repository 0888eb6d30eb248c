"""What only one thread may use at a time, kept for whoever comes next."""

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Pool(Generic[T]):
    """Makes a T for each of those who want one at the same time, and keeps what they give back, of the kind asked for last alone."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._kind: Hashable = None
        self._free: list[T] = []

    @contextmanager
    def borrow(self, kind: Hashable = None) -> Iterator[T]:
        """A T that nobody else has meanwhile. One whose use ends in an exception or interrupt is not kept: nobody knows what state it is in.

        kind: what was made for others is not reused for it, and let go of.
        """
        with self._lock:
            if kind != self._kind:
                self._kind, self._free = kind, []
            one = self._free.pop() if self._free else None
        if one is None:
            one = self._make()
        yield one
        with self._lock:
            if kind == self._kind:
                self._free.append(one)
