"""Compiles and loads winograd.cpp: once for a CPU and a compiler, then it is found again."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

import torch

from nnunetv2.utilities.cpu_flags import cpu_flags

SOURCE = Path(__file__).with_name("winograd.cpp")
# OpenMP's own library is not linked: torch has loaded one, and two of them would fight for the cores
COMPILE = ("-std=c++17", "-fPIC", "-fopenmp", "-Wno-psabi", "-c")
OPTIMISE = "-O3"  # -O2 takes a third of the time to compile, and makes 16-bit integers a few per cent slower


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nnunetv2"


def compile_library(compiler: str, library: Path, cpu: str = "native", optimise: str = OPTIMISE) -> None:
    """Write `library`, whole or not at all, for a `cpu` as -march names it. RuntimeError with what the compiler says."""
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        compiled, linked = Path(folder) / "winograd.o", Path(folder) / library.name
        for command in ([compiler, *COMPILE, optimise, f"-march={cpu}", str(SOURCE), "-o", str(compiled)], [compiler, "-shared", str(compiled), "-o", str(linked)]):
            run = subprocess.run(command, capture_output=True, text=True)
            if run.returncode:
                raise RuntimeError(f"{' '.join(command)} ended with {run.returncode}: {run.stderr.strip()[-500:]}")
        os.replace(linked, library)


def open_library(library: Path) -> ctypes.CDLL:
    functions = ctypes.CDLL(str(library))
    functions.transformed_size.restype = functions.transposed_size.restype = ctypes.c_long
    functions.scale_and_activate.restype = functions.convolve_transposed.restype = ctypes.c_float
    return functions


def _compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "g++"))


@lru_cache
def library_file() -> Path:
    """Where the functions for this CPU and compiler are, compiled or not yet. RuntimeError without Linux or a compiler."""
    compiler = _compiler()
    if platform.system() != "Linux" or compiler is None:
        raise RuntimeError("its layers are compiled on Linux, with the C++ compiler g++ or the one that CXX names, which is not there")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    key = hashlib.sha256("\0".join([SOURCE.read_text(), *COMPILE, OPTIMISE, version, *sorted(cpu_flags()), torch.__version__]).encode()).hexdigest()[:16]
    return cache_folder() / f"winograd_{key}.so"


@lru_cache
def load_library() -> ctypes.CDLL:
    """The compiled functions. RuntimeError that says why there are none: no Linux, no C++ compiler, or it cannot compile them."""
    library = library_file()
    try:
        if not library.is_file():
            print("Compiling the network's layers for this CPU, once; some 20 seconds.", file=sys.stderr, flush=True)
            compile_library(_compiler(), library)
        return open_library(library)
    except OSError as error:
        raise RuntimeError(f"its compiled layers cannot be kept or loaded: {error}") from error


def checked_file(*what: object) -> Path:
    """A file that, if it is there, says that a network (`what` tells it and its weights) was found to come out right in this library."""
    key = hashlib.sha256(repr(what).encode()).hexdigest()[:16]
    return library_file().with_suffix(".checked") / key
