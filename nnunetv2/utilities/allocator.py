"""How this process gets its memory from the system."""

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # mallopt(3)
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let freed memory stay with this process, for what it allocates next; False where the C library is not glibc.

    glibc gives tensors of more than some MiB back to the system at once, and every page of the next one is then cleared anew, which takes
    as long as a cheap layer. Kept memory is not cleared. The process holds up to a sixth more. Cannot be undone.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
