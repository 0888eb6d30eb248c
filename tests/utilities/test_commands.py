"""How commands end."""

import argparse
import errno
import subprocess
import sys
import warnings

import pytest

from nnunetv2.utilities.commands import INTERRUPTED, Parser, real_number, run, whole_number
from nnunetv2.utilities.errors import CasesFailed, InputError


def fails_with(error):
    def function():
        raise error
    return function


@pytest.mark.parametrize(("debug", "expected"), [(None, "warning: few cases\n"), ("1", "UserWarning: few cases")])
def test_warnings_about_data_come_without_the_line_of_code(monkeypatch, capfd, debug, expected):
    if debug is None:
        monkeypatch.delenv("nnUNet_debug", raising=False)
    else:
        monkeypatch.setenv("nnUNet_debug", debug)
    place = ("code.py", 3)
    before = warnings.formatwarning
    run(lambda: sys.stderr.write(warnings.formatwarning("few cases", UserWarning, *place) + warnings.formatwarning("old", DeprecationWarning, *place)) and None)
    shown = capfd.readouterr().err
    assert expected in shown and "code.py:3: DeprecationWarning: old" in shown and ("code.py:3: UserWarning" in shown) is (debug is not None)
    assert warnings.formatwarning is before


@pytest.mark.parametrize("error", [InputError("a: bad"), CasesFailed("a: bad"), NotImplementedError("a: bad")])
def test_expected_errors_end_in_their_message(error, monkeypatch):
    monkeypatch.delenv("nnUNet_debug", raising=False)
    with pytest.raises(SystemExit, match="^error: a: bad$"):
        run(fails_with(error))


def test_the_systems_errors_name_their_file():
    with pytest.raises(SystemExit, match="error: /x/y: No such file"):
        run(fails_with(FileNotFoundError(errno.ENOENT, "No such file", "/x/y")))


def test_an_interrupt_ends_with_the_shells_status(capsys):
    with pytest.raises(SystemExit) as caught:
        run(fails_with(KeyboardInterrupt()))
    assert caught.value.code == INTERRUPTED and "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["could not create a primitive", "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: not enough memory", "CUDA out of memory. Tried"])
def test_want_of_memory_is_known_by_what_libraries_say(text, monkeypatch):
    monkeypatch.delenv("nnUNet_debug", raising=False)
    with pytest.raises(SystemExit, match="^error: not enough memory .*fewer processes"):
        run(fails_with(RuntimeError(f"{text}\nmore lines")))


def test_an_unexpected_error_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="a fault of ours"):
        run(fails_with(RuntimeError("a fault of ours")))


def test_want_of_memory_says_what_helps(monkeypatch):
    monkeypatch.delenv("nnUNet_debug", raising=False)
    with pytest.raises(SystemExit, match="not enough memory.*fewer processes"):
        run(fails_with(MemoryError()))


def test_other_errors_keep_their_traceback():
    with pytest.raises(AssertionError):
        run(fails_with(AssertionError()))


def test_a_number_returned_is_the_exit_status():
    with pytest.raises(SystemExit) as caught:
        run(lambda: 3)
    assert caught.value.code == 3
    run(lambda: 0)


def test_a_closed_pipe_ends_without_a_word():
    program = "from nnunetv2.utilities.commands import run; run(lambda: print('x\\n' * 100000))"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.parametrize(("kind", "text"), [
    (whole_number(0), "-1"), (whole_number(0), "1.5"), (whole_number(0), "x"), (whole_number(1, 8), "9"), (real_number(0), "nan"), (real_number(0), "inf"),
    (real_number(0, 1, above=True), "0"), (real_number(0, 1), "1.1")])
def test_numbers_out_of_range_are_refused(kind, text):
    with pytest.raises(argparse.ArgumentTypeError, match="must be"):
        kind(text)


def test_numbers_in_range_pass():
    assert (whole_number(0)("0"), whole_number(1, 8)("8"), real_number(0, 1)("0.5")) == (0, 8, 0.5)


def test_help_tells_the_defaults_that_it_does_not_speak_of():
    parser = Parser("What it does.\n\n    the command")
    parser.add_argument("--plain", default=3)
    parser.add_argument("--told", default=4, help="default: four")
    parser.add_argument("--several", nargs="+", default=(0, 1), help="folds")
    parser.add_argument("--percent", default="5 %", help="%% of all")
    parser.add_argument("--switch", action="store_true", help="on or off")
    parser.add_argument("--without", help="a file")
    shown = " ".join(parser.format_help().split())
    assert "    the command" in parser.format_help().splitlines()
    assert shown.endswith("--plain PLAIN (default: 3) --told TOLD default: four --several SEVERAL [SEVERAL ...] folds (default: 0 1) "
                          "--percent PERCENT % of all (default: 5 %) --switch on or off --without WITHOUT a file")
    assert parser.format_help() == parser.format_help()


def test_a_wrong_option_is_one_line(capsys):
    with pytest.raises(SystemExit) as caught:
        Parser(prog="x").parse_args(["--no-such"])
    assert caught.value.code == 2 and capsys.readouterr().err == "error: unrecognized arguments: --no-such; --help lists the options\n"
