"""One run in a folder at a time, by a lock that dies with its process.

    with folder_lock(fold_folder, "training", "this fold is trained"):
        ...

The kernel holds the lock (flock), so a kill of any kind frees it; the file it hangs on is removed at the end, or by the next
run. A run whose commands are to hold the lock too keeps a file open that they inherit: see experiments/pipeline.py.
"""

import errno
import os
import re
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path

from nnunetv2.utilities.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
LOCK = re.compile(r"\..+\.lock")  # name of a lock's file
POLL = 0.2  # seconds between two looks at a lock that is waited for


class FolderBusy(InputError):
    """Another run works in the folder."""


@contextmanager
def folder_lock(folder: str | os.PathLike, name: str, doing: str, *, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold the lock `name` of `folder` for the block. A folder that is not there is made, and removed if it is still empty at the end.

    doing: in words, for the run that is refused. shared: others that share may hold it too. wait: wait for it rather than raise
    FolderBusy. Where the file system has no locks (some network drives) or the system none (Windows), it says so and goes on.
    """
    path = Path(folder) / f".{name}.lock"
    made = not path.parent.is_dir()
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _acquire(path, doing, shared, wait)
    try:
        yield
    finally:
        if descriptor is not None:
            _release(descriptor, path)
        if made and not any(path.parent.iterdir()):
            path.parent.rmdir()


@contextmanager
def prediction_lock(folder: str | os.PathLike, part_id: int = 0, num_parts: int = 1) -> Iterator[None]:
    """Hold `folder` for a prediction: alone, or beside the other parts of the same division into `num_parts`."""
    if num_parts == 1:
        with folder_lock(folder, "prediction", "cases are predicted"):
            yield
        return
    with folder_lock(folder, "prediction", "cases are predicted", shared=True):
        name, doing = f"prediction_part_{part_id}_of_{num_parts}", f"part {part_id} of {num_parts} is predicted"
        with folder_lock(folder, name, doing):
            for other in Path(folder).glob(".prediction_part_*_of_*.lock"):  # other divisions share cases with this one
                if not other.name.endswith(f"_of_{num_parts}.lock") and is_locked(other):
                    raise FolderBusy(_busy(other))
            yield


@contextmanager
def reading_lock(folder: str | os.PathLike, name: str, doing: str) -> Iterator[None]:
    """Say for the block that the files of `folder` are read, for those that ask with `is_in_use`.

    A folder that one may not write to is read without it.
    """
    with ExitStack() as held:
        try:
            held.enter_context(folder_lock(folder, name, doing, shared=True))
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
        yield


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock file `path` alone or shared."""
    if fcntl is None or not path.is_file():
        return False
    descriptor = os.open(path, os.O_RDWR)
    try:
        return _flock(descriptor, fcntl.LOCK_EX) is False
    finally:
        os.close(descriptor)


def refuse_in_use(folders: Iterable[str | os.PathLike], name: str = "prediction") -> None:
    """FolderBusy where a run holds the lock `name` of one of `folders`, which are read: they would hold files of that run and of an earlier one."""
    for folder in folders:
        if is_in_use(folder, name):
            raise FolderBusy(_busy(Path(folder) / f".{name}.lock"))


def is_in_use(folder: str | os.PathLike, name: str = "prediction") -> bool:
    """Whether a run holds the lock `name` of `folder`. Where one may not ask, on a read-only disk, it is not told."""
    try:
        return is_locked(Path(folder) / f".{name}.lock")
    except OSError:
        return False


def _acquire(path: Path, doing: str, shared: bool, wait: bool) -> int | None:
    if fcntl is None:
        return None
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        got = _flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        if got is None:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            _note_no_locks(str(path.parent))
            return None
        if got and _is_same_file(descriptor, path):
            if not shared:
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}: {doing}\n".encode())
            return descriptor
        os.close(descriptor)
        if got:  # the one that held it has removed the file meanwhile
            continue
        if not wait:
            raise FolderBusy(_busy(path))
        time.sleep(POLL)


def _release(descriptor: int, path: Path) -> None:
    """Remove the file, unless others still share its lock, and let go."""
    if _flock(descriptor, fcntl.LOCK_EX) and _is_same_file(descriptor, path):
        path.unlink(missing_ok=True)
    os.close(descriptor)


def _flock(descriptor: int, kind: int) -> bool | None:
    """True if the lock was got, False if another holds it, None where there are no locks."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS_HERE:
            return None
        raise
    return True


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@lru_cache
def _note_no_locks(folder: str) -> None:
    """Once a folder and process."""
    print(f"note: {folder} is on a file system without locks; do not start a second run there.", file=sys.stderr)


def _busy(path: Path) -> str:
    try:
        holder = path.read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        holder = ""
    return (f"{path.parent} is in use by another run{f' ({holder})' if holder else ''}. Wait until it has ended, or give another "
            "folder. The lock goes with its process; nothing has to be deleted by hand.")


def hold_folder(folder: str | os.PathLike, doing: str) -> int | None:
    """Lock the folder `folder` itself, without a file in it, until `os.close` of the descriptor that is returned, or the end of the process.

    None where there are no locks. FolderBusy where another holds it.
    """
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        lock_descriptor(descriptor, os.fspath(folder), doing)
    except OSError as error:
        if error.errno != errno.EBADF:  # NFS locks no folder, for that is never open for writing
            os.close(descriptor)
            raise
        _note_no_locks(os.fspath(folder))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def lock_descriptor(descriptor: int, folder: str, doing: str, wait: bool = False) -> None:
    """Lock the open file `descriptor`, whose lock then lasts as long as the process that opened it, or a child of it, has it open."""
    if fcntl is None:
        return
    while (got := _flock(descriptor, fcntl.LOCK_EX)) is False:
        if not wait:
            raise FolderBusy(f"{folder} is in use by another run ({doing}). Wait until it has ended, or give another folder.")
        time.sleep(POLL)
    if got is None:
        _note_no_locks(str(folder))
