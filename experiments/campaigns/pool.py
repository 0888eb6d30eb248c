"""A few forked runners that share a list of jobs; they may fork on, which workers of a process pool may not."""

import json
import os
import select
import struct
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any


def in_runners(work: Callable[[Any], dict], jobs: Sequence[Any], runners: int) -> Iterator[dict]:
    """work(job) of every job, in the order in which they end. RuntimeError with its traceback when `work` itself fails.

    A runner takes the next job when it is free: their numbers wait in one pipe.
    """
    numbers, numbers_in = os.pipe()
    feeder = os.fork()
    if feeder == 0:
        os.close(numbers)
        try:
            for number in range(len(jobs)):
                os.write(numbers_in, struct.pack("<I", number))
        except BrokenPipeError:
            pass  # all runners have ended
        os._exit(0)
    os.close(numbers_in)
    results, children = [], [feeder]
    for _ in range(min(runners, max(len(jobs), 1))):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _run(work, jobs, numbers, writing)
        os.close(writing)
        results.append(reading)
        children.append(child)
    os.close(numbers)
    try:
        while results:
            for handle in select.select(results, [], [])[0]:
                head = _exactly(handle, 4)
                if head is None:
                    os.close(handle)
                    results.remove(handle)
                    continue
                record = json.loads(_exactly(handle, struct.unpack("<I", head)[0]))
                if "failed" in record:
                    raise RuntimeError(f"The campaign itself failed:\n{record['failed']}")
                yield record
    finally:
        for handle in results:
            os.close(handle)
        for child in children:
            os.waitpid(child, 0)


def _run(work: Callable[[Any], dict], jobs: Sequence[Any], numbers: int, writing: int) -> None:
    status = 0
    try:
        while (number := _exactly(numbers, 4)) is not None:
            try:
                record = work(jobs[struct.unpack("<I", number)[0]])
            except Exception:
                record = {"failed": traceback.format_exc()}
            content = json.dumps(record).encode()
            os.write(writing, struct.pack("<I", len(content)))
            view = memoryview(content)
            while view:
                view = view[os.write(writing, view) :]
    except BrokenPipeError:
        status = 1  # the parent has given up
    finally:
        os._exit(status)


def _exactly(handle: int, size: int) -> bytes | None:
    """So many bytes; None at the end. Four bytes of a pipe are always read at once, as they are written at once."""
    content = b""
    while len(content) < size:
        part = os.read(handle, size - len(content))
        if not part:
            return None
        content += part
    return content
