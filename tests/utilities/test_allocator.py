"""Freed memory that stays with the process: tensors of a size that the system would clear anew reuse the pages of the last one."""

import platform
import subprocess
import sys

import pytest

COUNT = """
import resource, sys
import torch
from nnunetv2.utilities.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(40):  # small objects settle in the first gaps
    torch.ones(16 * 2**20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(16 * 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_pages_are_cleared_once():
    def faults(what: str) -> int:
        return int(subprocess.run([sys.executable, "-c", COUNT, what], check=True, capture_output=True, text=True).stdout)

    assert faults("keep") * 2 < faults("as usual")
