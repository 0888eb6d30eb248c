"""How a command or script begins and ends: its options, expected errors as one message, an interrupt as one line, a closed pipe without a word."""

import argparse
import functools
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from nnunetv2.utilities.errors import EXPECTED_ERRORS, in_one_message, is_of_memory

INTERRUPTED = 130  # as shells report a process that Ctrl-C ended
PIPE_CLOSED = 141  # as shells report one that wrote to `head` after it had gone


class Parser(argparse.ArgumentParser):
    """Parser of every command and script: wrong options end it with one line and status 2, and --help tells each default.

    A description keeps its lines. A default is added to an option's help, unless the help speaks of it or there is none.
    """

    def __init__(self, description: str | None = None, **kwargs) -> None:
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; --help lists the options\n")

    def format_help(self) -> str:
        for action in self._actions:
            action.help = _help_with_default(action)
        return super().format_help()


def _help_with_default(action: argparse.Action) -> str | None:
    """Of an option; switches have no default worth a word, and None stands for a default that the help describes."""
    text, value = action.help or "", action.default
    if not action.option_strings or action.required or value is None or isinstance(value, bool) or value in ((), [], "", argparse.SUPPRESS) or "default" in text:
        return action.help
    shown = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return f"{text} (default: {shown.replace('%', '%%')})".lstrip()


def run(function: Callable[..., int | None], *args, **kwargs) -> int | None:
    """Call `function`; an error about the user's input ends the process with its message and status 1, any other with its traceback.

    nnUNet_debug=1 in the environment keeps the traceback of both, and the places of warnings. An int returned becomes the exit status; 0 and None
    are returned.
    """
    try:
        with _plain_warnings():
            status = function(*args, **kwargs)
        sys.stdout.flush()  # so that a closed pipe shows here and not at the interpreter's end
    except BrokenPipeError as error:
        if error.filename is not None:
            sys.exit(f"error: {in_one_message(error)}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more
        sys.exit(PIPE_CLOSED)
    except KeyboardInterrupt:
        print("interrupted; what is finished stays", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except (MemoryError, RuntimeError, *EXPECTED_ERRORS) as error:
        of_memory = is_of_memory(error)
        if os.environ.get("nnUNet_debug") or not (of_memory or isinstance(error, EXPECTED_ERRORS)):
            raise
        if of_memory:
            sys.exit(f"error: not enough memory{f' ({_first_line(error)})' if str(error) else ''}. Run with fewer processes, or on a machine with more.")
        sys.exit(f"error: {in_one_message(error)}")
    if isinstance(status, int) and status:
        sys.exit(status)
    return status


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings about the user's data, which are UserWarnings, without the line of code that gave them."""
    before = warnings.formatwarning

    def plain(message: Warning | str, category: type[Warning], *place, **more) -> str:
        return f"warning: {message}\n" if category is UserWarning else before(message, category, *place, **more)

    if not os.environ.get("nnUNet_debug"):
        warnings.formatwarning = plain
    try:
        yield
    finally:
        warnings.formatwarning = before


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def script(main: Callable[..., int | None]) -> Callable[..., int | None]:
    """Decorator of a script's main function: it ends as `run` ends it."""
    @functools.wraps(main)
    def ended(*args, **kwargs) -> int | None:
        return run(main, *args, **kwargs)

    return ended


def whole_number(low: int, high: int | None = None) -> Callable[[str], int]:
    """Type of a command-line flag: an integer from `low` to `high`."""
    return _number(int, low, high, "a whole number")


def real_number(low: float, high: float | None = None, above: bool = False) -> Callable[[str], float]:
    """Type of a command-line flag: a finite number from `low` to `high`; above: greater than `low`."""
    return _number(float, low, high, "a number", above)


def _number(kind: type, low: float, high: float | None, what: str, above: bool = False) -> Callable[[str], int | float]:
    span = f"{'above' if above else 'from'} {low} to {high}" if high is not None else f"above {low}" if above else f"of at least {low}"

    def parse(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not (low < value if above else low <= value) or value == float("inf") or high is not None and value > high:
            raise argparse.ArgumentTypeError(f"{text!r} must be {what} {span}")
        return value

    return parse
