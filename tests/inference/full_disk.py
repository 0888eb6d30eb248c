"""A disk that takes no more: the system's limit on file sizes, which ITK meets as it meets a full disk, short and silent."""

import resource
from contextlib import contextmanager


@contextmanager
def no_file_larger_than(n_bytes: int):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
