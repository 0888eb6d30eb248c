"""Errors that the command lines print as one message, without a traceback."""

import errno
import os
import shutil
from collections.abc import Sequence


class InputError(ValueError):
    """What a user or a file gave cannot be used. The message names the file, the value and the remedy."""


class CasesFailed(RuntimeError):
    """Some cases of a batch failed; the message lists each with its reason, and the others are done."""


class CommandFailed(RuntimeError):
    """A command that a script ran ended with an error; the message names it and where its own message is."""


class WorkerLost(RuntimeError):
    """A process that worked for this one was ended from outside; the message says of what that is a sign."""


# A ValueError is one about input by this code base's convention; OSError carries its path and the system's reason; a training that
# diverges raises FloatingPointError.
EXPECTED_ERRORS = (CasesFailed, CommandFailed, WorkerLost, OSError, ValueError, NotImplementedError, FloatingPointError)


# What libraries say in a RuntimeError of theirs when there is no memory left: torch on a CPU and on a GPU, oneDNN, blosc2
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "could not create a primitive", "could not create a memory",
                  "bad allocation", "std::bad_alloc", "Cannot allocate memory")


def is_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, as Python or a library says it."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY))


STORAGE_IS_FULL = (errno.ENOSPC, errno.EDQUOT)
MOST_NAMED = 100  # lines of a list, such as failed cases; the others are counted
FULL_IN_A_ROW = 3  # cases that find no room on the disk, one after the other, end a run: the next ones would be computed for nothing


def takes_no_more(error: BaseException | None) -> bool:
    """Whether it says that the disk is full or read-only, which the next case would find too."""
    return isinstance(error, OSError) and error.errno in (*STORAGE_IS_FULL, errno.EROFS)


def in_one_message(error: BaseException) -> str:
    """The text that ends a command. The system's errors get their path and a remedy, which their own text lacks."""
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}{_remedy(error)}"


def _remedy(error: OSError) -> str:
    if error.errno in STORAGE_IS_FULL:
        folder = os.path.dirname(os.path.abspath(error.filename or ".")) if error.filename else os.getcwd()
        while not os.path.isdir(folder):
            folder = os.path.dirname(folder)
        return f"; {shutil.disk_usage(folder).free / 2**20:.0f} MiB are free in {folder}. Free some space, or write elsewhere, and run the command again."
    return {
        errno.EACCES: ". Check who owns it and its permissions.", errno.EPERM: ". Check who owns it and its permissions.",
        errno.EFBIG: ". The largest file allowed here is smaller (ulimit -f, or the file system's own limit); raise it, or write elsewhere.",
        errno.EIO: ". Check the disk or the share, and run the command again.",
        errno.EROFS: ". Write elsewhere, or mount it writable.", errno.ENOENT: ". Check the path.",
        errno.ENXIO: ". This is a socket or a device without a partner; name a file.",
        errno.ENOTDIR: ". A part of this path is a file; name a folder.", errno.EISDIR: ". This is a folder; name a file.",
        errno.EEXIST: ". Name another, or move it away.", errno.ENAMETOOLONG: ". Choose a shorter name.", errno.ELOOP: ". Its links lead in a circle; mend them.",
    }.get(error.errno, "")


def list_some(lines: Sequence[str], most: int = MOST_NAMED, indent: str = "  ") -> str:
    """Lines of an error message; the rest is counted."""
    more = [f"and {len(lines) - most} more"] if len(lines) > most else []
    return "\n".join(f"{indent}{line}" for line in [*lines[:most], *more])


def name_some(values: Sequence, most: int = 5) -> str:
    """Values within a sentence, `a, b and 3 more`."""
    more = f" and {len(values) - most} more" if len(values) > most else ""
    return ", ".join(map(str, values[:most])) + more


def name_most(cases: Sequence) -> str:
    """Cases that somebody has to mend, within a sentence: all of them, unless there are more than MOST_NAMED."""
    return name_some(cases, MOST_NAMED)
