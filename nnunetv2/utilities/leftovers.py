"""What killed processes leave behind: temporary files and folders whose names tell whose they are.

A temporary name is `.STEM.TOKEN.SUFFIX`. The token says on which machine, by which process and when that process began, so
that `sweep` can delete what nobody will finish and leaves alone what a living process is writing.
"""

import hashlib
import os
import re
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

LEFTOVER = re.compile(r"\.(?P<stem>.+?)\.(?P<token>[0-9a-f]{32})(?P<suffix>\..*)?")
FOREIGN_AGE = 3600.0  # seconds without a change after which another machine's process counts as dead; a writer writes all the time


def new_token() -> str:
    """32 hexadecimal digits, 8 each: the machine, the process, when it began, chance."""
    pid = os.getpid()
    began = 0 if os.name == "nt" else _start_time(pid) or 0
    return f"{_machine()}{pid & 0xffffffff:08x}{began:08x}{secrets.token_hex(4)}"


def sweep(*folders: str | os.PathLike) -> None:
    """Delete the leftovers of dead processes directly in `folders`. A folder that does not exist has none."""
    for folder in folders:
        try:
            names = [entry.name for entry in os.scandir(folder) if entry.name.startswith(".")]
        except (FileNotFoundError, NotADirectoryError):
            continue
        for name in names:
            parts, path = LEFTOVER.fullmatch(name), Path(folder, name)
            if parts is None or _is_living(parts["token"], path):
                continue
            try:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
            except OSError:  # a read-only folder, or another process sweeps it too: whoever writes there is told by its own write
                continue


_swept: set[str] = set()


def sweep_once(folder: Path) -> None:
    """`sweep`, the first time this process comes to write into `folder`: one listing, however many files follow."""
    key = os.path.abspath(folder)
    if key not in _swept:
        _swept.add(key)
        sweep(folder)


@contextmanager
def temporary_folder(parent: str | os.PathLike, purpose: str) -> Iterator[Path]:
    """A new folder in `parent`, which must exist, deleted at the end. One that a kill leaves is swept."""
    sweep_once(Path(parent))
    folder = Path(parent, f".{purpose}.{new_token()}")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # what stays, by an error, is swept later


@lru_cache
def _machine() -> str:
    """8 digits of the machine since it was switched on, and of the container: process numbers mean something within these alone."""
    parts = [socket.gethostname()]
    try:
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8"), os.readlink("/proc/self/ns/pid")]
    except OSError:  # no Linux
        parts.append(tempfile.gettempdir())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _start_time(pid: int) -> int | None:
    """When process `pid` began (ticks since the machine was switched on, modulo 2**32); None without such a process, 0 where it is not told."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:  # no Linux, no such process, or one of another user whom this one may not see
        return 0 if _exists(pid) else None
    state, began = fields[0], int(fields[19])
    return None if state in "ZX" else began & 0xffffffff  # a zombie has died, only its parent does not know


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _is_living(token: str, path: Path) -> bool:
    if token[:8] != _machine() or os.name == "nt":  # Windows has no harmless way to ask for a process
        try:
            return time.time() - path.lstat().st_mtime < FOREIGN_AGE
        except FileNotFoundError:
            return True  # finished or swept meanwhile
    began = _start_time(int(token[8:16], 16))
    return began is not None and began in (0, int(token[16:24], 16))
