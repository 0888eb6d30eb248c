"""What the CPU of this machine is and can do."""

import platform
from functools import lru_cache
from pathlib import Path


@lru_cache
def cpu_flags() -> frozenset[str]:
    """The instruction sets of the CPU as Linux names them (avx2, avx512_vnni, amx_bf16, ...); none on other systems."""
    return frozenset(flag for line in _cpuinfo() if line.startswith(("flags", "Features")) for flag in line.partition(":")[2].split())


def vector_units() -> str:
    """The widest that convolutions use: makers give CPUs of one name that differ in speed by several times. Empty where nothing is known."""
    for name, flags in (("AMX", {"amx_int8"}), ("AVX-512 VNNI", {"avx512f", "avx512_vnni"}), ("AVX-512", {"avx512f"}), ("AVX2", {"avx2"}), ("NEON", {"asimd"})):
        if flags <= cpu_flags():
            return name
    return ""


def cpu_model() -> str:
    """The CPU's name as its maker gives it; what Python knows of it on systems other than Linux."""
    return next((line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor())


def _cpuinfo() -> list[str]:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
