"""How much memory a file may ask for: sizes in plans and headers are bounded before anything is allocated.

The bound is the machine's memory. What is computed here is always less than what the work really takes, so nothing is refused
that could run.
"""

import os
from functools import lru_cache
from pathlib import Path

from nnunetv2.utilities.errors import InputError

LIMIT_VARIABLE = "nnUNet_memory_gb"
UNKNOWN_MACHINE = 2**40  # bytes, where the system does not tell; no workstation has more
_CONTROL_GROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def memory_limit() -> int:
    """Bytes that a single thing may take: `nnUNet_memory_gb`, else the memory of this machine or container."""
    wish = os.environ.get(LIMIT_VARIABLE)
    if not wish:
        return _machine_memory()
    try:
        gigabytes = float(wish)
    except ValueError:
        gigabytes = 0.0
    if not 0 < gigabytes < float("inf"):
        raise InputError(f"The environment variable {LIMIT_VARIABLE} is {wish!r}; it must be a number of gigabytes above 0.")
    return int(gigabytes * 2**30)


def refuse_beyond_memory(n_bytes: int, what: str, where: object) -> None:
    """InputError if `n_bytes`, which `what` out of the file `where` takes at least, exceed the limit."""
    if n_bytes > memory_limit():
        raise InputError(f"{where}: {what} would take at least {_gigabytes(n_bytes)}, this machine has {_gigabytes(memory_limit())}. Correct the file; "
                         f"if the size is meant, run it on a larger machine or raise the bound with {LIMIT_VARIABLE}.")


def _gigabytes(n_bytes: int) -> str:
    return f"{n_bytes // 2**30:,} GB" if n_bytes >= 10 * 2**30 else f"{n_bytes / 2**30:.2g} GB"


@lru_cache
def _machine_memory() -> int:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return UNKNOWN_MACHINE
    limits = [Path(file).read_text(encoding="utf-8").strip() for file in _CONTROL_GROUP_LIMITS if os.path.isfile(file)]
    return min([total, *(int(limit) for limit in limits if limit.isdecimal())])
