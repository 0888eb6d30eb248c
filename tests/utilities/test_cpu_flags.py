"""What a CPU multiplies with, of /proc/cpuinfo as Linux writes it."""

import pytest

from nnunetv2.utilities import cpu_flags as module


@pytest.mark.parametrize(("line", "units"), [
    ("flags\t\t: fpu avx avx2 fma", "AVX2"),
    ("flags\t\t: fpu avx2 avx512f", "AVX-512"),
    ("flags\t\t: fpu avx2 avx512f avx512_vnni", "AVX-512 VNNI"),
    ("flags\t\t: fpu avx2 avx512f avx512_vnni amx_tile amx_int8", "AMX"),
    ("Features\t: fp asimd", "NEON"),
    ("flags\t\t: fpu sse2", ""),
])
def test_vector_units(monkeypatch, line, units):
    monkeypatch.setattr(module, "_cpuinfo", lambda: ["model name\t: A CPU", line])
    module.cpu_flags.cache_clear()
    assert module.vector_units() == units and module.cpu_model() == "A CPU"


@pytest.fixture(autouse=True)
def flags_of_this_machine_afterwards():
    yield
    module.cpu_flags.cache_clear()
