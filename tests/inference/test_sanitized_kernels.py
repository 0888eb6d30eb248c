"""The compiled layers under gcc's address and undefined-behaviour sanitizers, on random shapes. Half a minute to compile, so only when asked for:

    nnUNet_sanitize=true python -m pytest tests/inference/test_sanitized_kernels.py
"""

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from nnunetv2.inference.engines.winograd.library import SOURCE
from nnunetv2.utilities.cpu_flags import cpu_flags

MAIN = Path(__file__).with_name("sanitized_kernels.cpp")
pytestmark = pytest.mark.skipif(os.environ.get("nnUNet_sanitize", "").lower() not in ("true", "1", "t"), reason="nnUNet_sanitize=true runs it")


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory):
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if platform.system() != "Linux" or compiler is None:
        pytest.skip("needs a C++ compiler on Linux")
    program = tmp_path_factory.mktemp("sanitized") / "kernels"
    cpu = "-march=x86-64-v3" if cpu_flags() >= {"avx2", "fma"} else "-march=native"
    subprocess.run([compiler, "-std=c++17", "-fopenmp", "-Wno-psabi", "-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", cpu,
                    f'-DKERNELS="{SOURCE}"', "-DPAIRS_WITHOUT_TILES", str(MAIN), "-o", str(program)], check=True, capture_output=True)
    return program


@pytest.mark.parametrize("seed", range(3))
def test_no_access_outside_of_arrays_and_nothing_undefined(sanitized, seed):
    options = {"ASAN_OPTIONS": "allocator_may_return_null=1:max_allocation_size_mb=2000", "OMP_NUM_THREADS": "2"}
    run = subprocess.run([sanitized, str(seed), "2"], capture_output=True, text=True, env=os.environ | options, timeout=300)
    assert run.returncode == 0, run.stderr[-4000:]
