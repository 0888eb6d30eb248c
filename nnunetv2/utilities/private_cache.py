"""A folder of this user alone for compiled code: what is loaded from it runs, so nobody else may have put it there."""

import atexit
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

NAME = "nnunetv2"
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


@lru_cache
def private_cache_folder() -> Path:
    """$XDG_CACHE_HOME/nnunetv2, else ~/.cache/nnunetv2, else a folder in the system's folder for temporary files; made if need be, mode 0700.

    A relative XDG_CACHE_HOME does not count, as the XDG base directory specification has it. A place that cannot be written, or that
    others can write or own, is passed over, which is said once; the last resort is a folder that goes with this process.
    """
    reasons = []
    for folder in _candidates():
        problem = _problem(folder)
        if problem is None:
            if reasons:
                print(f"Compiled code is kept in {folder}: {'; '.join(reasons)}.", file=sys.stderr, flush=True)
            return folder
        reasons.append(f"{folder} {problem}")
    folder = Path(tempfile.mkdtemp(prefix=f"{NAME}_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    print(f"Compiled code is kept in {folder} until this process ends: {'; '.join(reasons)}.", file=sys.stderr, flush=True)
    return folder


def is_private(file: Path) -> bool:
    """Whether `file` is a plain file of this user that nobody else can write, root aside."""
    try:
        status = os.lstat(file)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & OTHERS_WRITE


def _candidates() -> Iterator[Path]:
    configured = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(configured):
        yield Path(configured) / NAME
    else:
        home = os.path.expanduser("~")  # stays as it is for a user without a home
        if os.path.isabs(home):
            yield Path(home) / ".cache" / NAME
    yield Path(tempfile.gettempdir()) / f"{NAME}_{os.geteuid()}"


def _problem(folder: Path) -> str | None:
    """Make `folder`, and say why it must not be used, or None."""
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        parent, status = os.stat(folder.parent), os.lstat(folder)
        if not stat.S_ISDIR(status.st_mode):
            return "is a link or no folder"
        if status.st_uid != os.geteuid():
            return f"belongs to user {status.st_uid}"
        if parent.st_mode & stat.S_IWOTH and not parent.st_mode & stat.S_ISVTX:
            return "lies in a folder in which everybody may replace it"
        if stat.S_IMODE(status.st_mode) != 0o700:  # an older one, or the umask; its files are looked at one by one before they are loaded
            folder.chmod(0o700)
        if not os.access(folder, os.W_OK | os.X_OK):
            return "cannot be written"
    except OSError as error:
        return f"cannot be used ({error.strerror})"
    return None
