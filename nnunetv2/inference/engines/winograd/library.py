"""Compiles and loads the layers in kernels/: once for a CPU and a compiler, then it is found again."""

import ctypes
import errno
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from ctypes import POINTER, c_int, c_long, c_void_p
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from nnunetv2.inference.engines.winograd.structs import Convolution, ConvolutionData, Pooling, Scaling, Segmentation, Transposition, TranspositionData
from nnunetv2.utilities.cpu_flags import cpu_flags
from nnunetv2.utilities.digests import are_intact, digests
from nnunetv2.utilities.leftovers import temporary_folder
from nnunetv2.utilities.private_cache import is_private, private_cache_folder

with suppress(ImportError):  # not on Windows, where nothing is compiled
    import fcntl

KERNELS = Path(__file__).with_name("kernels")
SOURCE = KERNELS / "dispatch.cpp"  # the one that is compiled; it includes the others
# OpenMP's own library is not linked: torch has loaded one, and two of them would fight for the cores
COMPILE = ("-std=c++17", "-fPIC", "-fopenmp", "-Wno-psabi", "-c")
OPTIMISE = "-O3"  # -O2 takes a third of the time to compile, and makes 16-bit integers a few per cent slower


COMPILES_WITHIN, WAIT_FOR_ANOTHER = 600.0, 180.0  # seconds: of one compiler's run, of waiting for another process's


def compile_library(compiler: str, library: Path, cpu: str = "native", flags: Sequence[str] = (OPTIMISE,)) -> None:
    """Write `library` and its digest, whole or not at all, for a `cpu` as -march names it.

    RuntimeError where it does not compile; what the compiler says is then in a file beside it (.log).
    """
    library.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with temporary_folder(library.parent, "winograd") as folder:
        compiled, linked = folder / "winograd.o", folder / library.name
        for command in ([compiler, *COMPILE, *flags, f"-march={cpu}", str(SOURCE), "-o", str(compiled)], [compiler, "-shared", str(compiled), "-o", str(linked)]):
            try:
                run = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=COMPILES_WITHIN)
            except subprocess.TimeoutExpired as error:
                raise RuntimeError(f"{compiler} has not compiled its layers in {COMPILES_WITHIN} s") from error
            if run.returncode:
                log = library.with_suffix(".log")
                log.write_text(f"{' '.join(command)}\n{run.stderr}", encoding="utf-8")
                raise RuntimeError(f"{compiler} ended with {run.returncode} and does not compile its layers for this CPU ({platform.machine()}); see {log}")
        _digest_file(linked).write_text(digests(linked), encoding="utf-8")
        for file in (linked, _digest_file(linked)):
            file.chmod(0o600)  # whatever the umask
        os.replace(linked, library)
        os.replace(_digest_file(linked), _digest_file(library))


def _digest_file(library: Path) -> Path:
    return library.with_suffix(".sha256")


@contextmanager
def _only_one_compiles(library: Path) -> Iterator[None]:
    """Holds a lock that the system takes back if the process dies. RuntimeError if another process holds it for longer than compiling takes."""
    with open(library.with_suffix(".lock"), "w", encoding="utf-8") as lock:
        latest = time.monotonic() + WAIT_FOR_ANOTHER
        said = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > latest:
                    raise RuntimeError(f"another process has been compiling its layers for {WAIT_FOR_ANOTHER:.0f} s (it holds {lock.name})") from None
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                    raise
                break  # a file system without locks: each compiles for itself, and the last one's file stays
            if not said:
                said = True
                print("Another process compiles the network's layers for this CPU; waiting for it.", file=sys.stderr, flush=True)
            time.sleep(0.2)
        yield


# What the functions take beside structs: pointers to floats, and at last the number of threads.
COMPUTING: dict[str, tuple[Any, ...]] = {
    "transform_filters": (POINTER(Convolution), c_void_p, c_void_p, c_int), "convolve": (POINTER(Convolution), POINTER(ConvolutionData), c_int),
    "scale_and_activate": (POINTER(Scaling), c_int), "segment": (POINTER(Segmentation), c_int), "average_pool": (POINTER(Pooling), c_int),
    "transform_transposed": (POINTER(Transposition), c_void_p, c_void_p), "convolve_transposed": (POINTER(Transposition), POINTER(TranspositionData), c_int)}
NO_MEMORY = 2  # of what those return, as arguments.h's enum Problem has it; 0 is none


def open_library(library: Path) -> ctypes.CDLL:
    """The functions, those that compute with a check of what they return: MemoryError, or RuntimeError with what was wrong."""
    functions = ctypes.CDLL(str(library))
    functions.transformed_size.argtypes, functions.transposed_size.argtypes = (POINTER(Convolution),), (POINTER(Transposition),)
    functions.transformed_size.restype = functions.transposed_size.restype = c_long
    functions.problem.restype = ctypes.c_char_p
    functions.has_tiles.restype = c_int

    def check(result: int, function: Any, arguments: tuple) -> None:
        if result:
            reason = f"{function.__name__} in the network's compiled layers: {functions.problem().decode()}"
            raise MemoryError(reason) if result == NO_MEMORY else RuntimeError(reason)

    for name, types in COMPUTING.items():
        function = getattr(functions, name)
        function.argtypes, function.restype, function.errcheck = types, c_int, check
    return functions


def _compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "g++"))


def sources() -> list[str]:
    """Name and text of every file that is compiled: an edit of any gives another library."""
    return [part for file in sorted(KERNELS.iterdir()) if file.suffix in (".cpp", ".h") for part in (file.name, file.read_text(encoding="utf-8"))]


@lru_cache
def library_file() -> Path:
    """Where the functions for this CPU and compiler are, compiled or not yet. RuntimeError without Linux or a compiler."""
    compiler = _compiler()
    if platform.system() != "Linux" or compiler is None:
        raise RuntimeError("its layers are compiled on Linux, with the C++ compiler g++ or the one that CXX names, which is not there")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    key = hashlib.sha256("\0".join([*sources(), *COMPILE, OPTIMISE, version, *sorted(cpu_flags()), torch.__version__]).encode()).hexdigest()[:16]
    return private_cache_folder() / f"winograd_{key}.so"


def _may_be_loaded(library: Path) -> bool:
    """Whether `library` is of this user, writable by nobody else, and as it was written: a part of one would end this process by a signal."""
    return is_private(library) and is_private(_digest_file(library)) and are_intact(_digest_file(library), library)


@lru_cache
def load_library() -> ctypes.CDLL:
    """The compiled functions. RuntimeError that says why there are none: no Linux, no C++ compiler, or it cannot compile them.

    Several processes may call it at once: one compiles, the others wait for it, for WAIT_FOR_ANOTHER at most. A file that is not as it
    was written, or that others could have changed, is compiled anew.
    """
    try:
        library = library_file()
        if not _may_be_loaded(library):
            with _only_one_compiles(library):
                if not _may_be_loaded(library):
                    print("Compiling the network's layers for this CPU, once; half a minute on a free core.", file=sys.stderr, flush=True)
                    compile_library(_compiler(), library)
        return open_library(library)
    except OSError as error:
        raise RuntimeError(f"its compiled layers cannot be kept or loaded: {error}") from error


def checked_file(*what: object) -> Path:
    """A file that, if it is there, says that a network (`what` tells it and its weights) was found to come out right in this library."""
    key = hashlib.sha256(repr(what).encode()).hexdigest()[:16]
    return library_file().with_suffix(".checked") / key
