"""What the CPU of this machine can do."""

from functools import lru_cache
from pathlib import Path


@lru_cache
def cpu_flags() -> frozenset[str]:
    """The instruction sets of the CPU as Linux names them (avx2, avx512_vnni, amx_bf16, ...); none on other systems."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return frozenset(flag for line in lines if line.startswith(("flags", "Features")) for flag in line.partition(":")[2].split())
