"""Process counts and the one threshold that planning and resampling share."""

import os
from functools import lru_cache
from math import ceil
from pathlib import Path

ANISO_THRESHOLD = 3  # an axis is low-resolution when its spacing exceeds 3x that of the others


def available_cores() -> int:
    """Cores this process may keep busy; fewer than the machine has under taskset, SLURM, a container's cpuset or its CPU quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, cpu_quota() or cores)


@lru_cache
def cpu_quota(root: Path = Path("/")) -> int | None:
    """Cores that control groups (version 1 or 2) grant this process, rounded up; None without a limit, or outside Linux.

    The smallest of the process's own group and all above it counts. A container mostly sees its own group at the top. `root`: where
    proc and sys are mounted.
    """
    groups = _read(root / "proc/self/cgroup").splitlines()
    quotas = []
    for _, controllers, path in (line.split(":", 2) for line in groups if line.count(":") >= 2):
        if not controllers:
            quotas += [_quota(*_read(folder / "cpu.max").split()[:2]) for folder in _with_parents(root / "sys/fs/cgroup", path)]
        elif "cpu" in controllers.split(","):
            for mount in ("cpu", controllers):
                quotas += [_quota(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))
                           for folder in _with_parents(root / "sys/fs/cgroup" / mount, path)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _with_parents(mount: Path, path: str) -> list[Path]:
    """`mount` and every folder down to `path` in it. A path that leads out of it is another view of the same groups: `mount` alone."""
    parts = [part for part in path.strip().split("/") if part]
    return [mount] if ".." in parts else [mount.joinpath(*parts[:n]) for n in range(len(parts) + 1)]


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:  # no such group, or no permission to look at it
        return ""


def _quota(quota: str = "", period: str = "") -> int | None:
    """Microseconds of all cores in a period of so many; "max" or -1 is no limit."""
    if not (quota.isdecimal() and period.isdecimal() and int(quota) and int(period)):
        return None
    return ceil(int(quota) / int(period))


def process_count(variable: str, upper: int) -> int:
    """The number in environment variable `variable`, else `upper` capped at the cores.

    More workers than cores cost time rather than save it (fingerprint +75 %, preprocessing +30 %, measured on 2 cores),
    so only an explicit wish exceeds them. An empty variable is an unset one.
    """
    wish = os.environ.get(variable)
    if not wish:
        return min(upper, available_cores())
    if not wish.isdecimal() or int(wish) < 1:
        raise ValueError(f"The environment variable {variable} is {wish!r}; it must be a whole number of at least 1.")
    return int(wish)


default_num_processes = process_count("nnUNet_def_n_proc", 8)  # fingerprint, preprocessing, export, evaluation
