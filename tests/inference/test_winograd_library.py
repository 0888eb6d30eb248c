"""The compiled library's file: made once, by one process, and made anew when it is not what was written. A script stands in for the compiler."""

import fcntl
import os
import shutil
import stat
import sys
import tempfile
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from nnunetv2.inference.engines import make_engine
from nnunetv2.inference.engines.winograd import library as winograd_library
from nnunetv2.utilities.private_cache import private_cache_folder
from tests.inference.tiny_model import wide_network

CPU = torch.device("cpu")
try:
    winograd_library.load_library()
except RuntimeError as error:
    pytest.skip(f"no compiled layers: {error}", allow_module_level=True)


def _forget_library():
    private_cache_folder.cache_clear()
    winograd_library.library_file.cache_clear()
    winograd_library.load_library.cache_clear()


@pytest.fixture
def fresh_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    _forget_library()
    yield tmp_path / "cache" / "nnunetv2"
    _forget_library()


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    """Sets the compiler to a script that runs `line` where g++ would compile, and links by copying the library in use. Returns its count of runs."""
    compiled = winograd_library.library_file()
    script, count = tmp_path / "compiler", tmp_path / "count"
    count.touch()

    def use(line=":"):
        script.write_text(f"""#!/bin/sh
for last; do :; done
case "$*" in
*--version*) echo 1.0 ;;
*-shared*) cp {compiled} "$last" ;;
*) echo run >> {count}; {line}; touch "$last" ;;
esac
""")
        script.chmod(0o755)
        monkeypatch.setenv("CXX", str(script))
        return lambda: len(count.read_text().splitlines())

    return use


def test_the_library_is_compiled_once(compiler, fresh_cache):
    runs = compiler()
    for _ in range(2):
        assert winograd_library.load_library().lanes() in (4, 8, 16)
        _forget_library()
    library, = fresh_cache.glob("*.so")
    assert library.name.startswith("winograd_") and runs() == 1


def test_an_edit_of_any_kernel_file_gives_another_library(compiler, fresh_cache, monkeypatch, tmp_path):
    compiler()
    shutil.copytree(winograd_library.KERNELS, tmp_path / "kernels")
    monkeypatch.setattr(winograd_library, "KERNELS", tmp_path / "kernels")
    files, names = sorted((tmp_path / "kernels").iterdir()), {winograd_library.library_file().name}
    for file in files:
        file.write_text(file.read_text() + "// edited\n")
        winograd_library.library_file.cache_clear()
        names.add(winograd_library.library_file().name)
    assert len(names) == len(files) + 1 and {file.suffix for file in files} == {".h", ".cpp"}


def test_kernel_files_include_nothing_but_one_another_and_the_system():
    included = [line.split('"')[1] for text in winograd_library.sources()[1::2] for line in text.splitlines() if line.startswith('#include "')]
    headers = {name for name in winograd_library.sources()[::2] if name.endswith(".h")}
    assert set(included) == headers, "every header is used, and each is in the hash"


@pytest.mark.slow
@pytest.mark.parametrize("suffix, damaged", [
    (".so", lambda content: content[:20_000]), (".so", lambda content: b""), (".so", lambda content: None), (".so", lambda content: content[:-1] + b"x"),
    (".sha256", lambda content: None), (".sha256", lambda content: b"\xff")], ids=["cut", "empty", "gone", "changed", "no digest", "broken digest"])
def test_a_library_that_is_damaged_is_compiled_anew(compiler, fresh_cache, suffix, damaged):
    runs = compiler()
    winograd_library.load_library()
    _forget_library()
    file = winograd_library.library_file().with_suffix(suffix)
    content = damaged(file.read_bytes())
    file.unlink()  # this process has the library loaded, which writing in place would change under its feet
    if content is not None:
        file.write_bytes(content)
    assert winograd_library.load_library().lanes() in (4, 8, 16) and runs() == 2


@pytest.mark.slow
def test_of_many_that_start_at_once_one_compiles_and_the_others_wait(compiler, fresh_cache, capsys):
    runs, together = compiler("sleep 0.5"), threading.Barrier(6)

    def start(_):
        together.wait()
        return winograd_library.load_library.__wrapped__().lanes()

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(start, range(6)))) == 1
    assert runs() == 1 and capsys.readouterr().err.count("waiting for it") == 5


@pytest.mark.slow
def test_whoever_waits_too_long_gives_up(compiler, fresh_cache, monkeypatch):
    compiler()
    monkeypatch.setattr(winograd_library, "WAIT_FOR_ANOTHER", 0.1)
    with open(winograd_library.library_file().with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RuntimeError, match="another process has been compiling"):
            winograd_library.load_library()
    assert winograd_library.load_library().lanes() in (4, 8, 16), "the lock of a process that ended is free"


@pytest.mark.slow
def test_a_compiler_that_hangs_is_given_up(compiler, fresh_cache, monkeypatch):
    compiler("exec sleep 60")
    monkeypatch.setattr(winograd_library, "COMPILES_WITHIN", 0.2)
    with pytest.raises(RuntimeError, match="has not compiled its layers in 0.2 s"):
        winograd_library.load_library()


def test_where_nothing_compiles_another_engine_serves_without_a_word_of_c(compiler, fresh_cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.delitem(sys.modules, "nnunetv2.inference.engines.openvino_engine", raising=False)
    compiler("echo 'error: unknown type name __m512' >&2; exit 1")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert make_engine(wide_network, CPU, "fp32", divisor=(2, 4, 4)).name == "torch"
    message, = (str(warning.message) for warning in said if "winograd is not used, torch is" in str(warning.message))
    log, = fresh_cache.glob("*.log")
    assert "ended with 1" in message and str(log) in message and "__m512" not in message and "__m512" in log.read_text()


def test_without_a_compiler_the_reason_is_told(fresh_cache, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RuntimeError, match="CXX"):
        winograd_library.load_library()


def test_a_cache_that_cannot_be_written_is_told_and_another_place_serves(compiler, fresh_cache, monkeypatch, tmp_path, capsys):
    runs = compiler()
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    _forget_library()
    assert winograd_library.load_library().lanes() in (4, 8, 16) and runs() == 1
    assert winograd_library.library_file().parent == tmp_path / f"nnunetv2_{os.geteuid()}" and str(tmp_path / "file") in capsys.readouterr().err


def test_nowhere_to_keep_it_is_an_error_that_says_so(compiler, fresh_cache, monkeypatch, tmp_path):
    compiler()
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    _forget_library()
    with pytest.raises(RuntimeError, match="kept or loaded"):
        winograd_library.load_library()
    _forget_library()


def test_nobody_else_can_write_what_is_kept_whatever_the_umask(compiler, fresh_cache):
    compiler()
    before = os.umask(0)
    try:
        winograd_library.load_library()
    finally:
        os.umask(before)
    library = winograd_library.library_file()
    assert library.parent == fresh_cache and stat.S_IMODE(fresh_cache.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in (library, library.with_suffix(".sha256"))} == {0o600}


@pytest.mark.parametrize("suffix", [".so", ".sha256"])
def test_a_library_that_others_could_have_changed_is_compiled_anew(compiler, fresh_cache, suffix):
    runs = compiler()
    winograd_library.load_library()
    winograd_library.library_file().with_suffix(suffix).chmod(0o666)
    _forget_library()
    winograd_library.load_library()
    assert runs() == 2 and stat.S_IMODE(winograd_library.library_file().with_suffix(suffix).stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_library_of_another_owner_is_compiled_anew(compiler, fresh_cache):
    runs = compiler()
    winograd_library.load_library()
    os.chown(winograd_library.library_file(), 12345, -1)
    _forget_library()
    winograd_library.load_library()
    assert runs() == 2 and winograd_library.library_file().stat().st_uid == 0


def test_a_library_in_the_working_folder_is_not_loaded(compiler, monkeypatch, tmp_path, fresh_cache):
    runs = compiler()
    winograd_library.load_library()
    planted = tmp_path / "here" / "cache" / "nnunetv2"
    shutil.copytree(fresh_cache, planted)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    _forget_library()
    winograd_library.load_library()
    assert runs() == 2 and winograd_library.library_file().is_relative_to(tmp_path / "home" / ".cache" / "nnunetv2")
