"""Damaged CSV tables: class tables of training cases, and predicted classes with their probabilities."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from experiments.fuzz.damage import FILE_SYSTEM, Damage, constant, rewriting


def lines(name: str, change: Callable[[list[bytes]], list[bytes]], must_fail: bool = True) -> Damage:
    """The table's lines changed; the first is its header."""
    return rewriting(name, lambda content, _: b"\n".join(change(content.splitlines())) + b"\n", must_fail)


def first_cell(name: str, value: bytes, must_fail: bool = True) -> Damage:
    """The name of the first case exchanged, so that the case itself is missing."""
    return lines(name, lambda rows: [rows[0], value + b"," + rows[1].split(b",", 1)[1], *rows[2:]], must_fail)


def last_cell(name: str, value: bytes, must_fail: bool = True) -> Damage:
    """The value of the first case exchanged."""
    return lines(name, lambda rows: [rows[0], rows[1].rsplit(b",", 1)[0] + b"," + value, *rows[2:]], must_fail)


TABLE = [
    *FILE_SYSTEM,
    constant("empty", b""),
    constant("null bytes", bytes(300)),
    constant("random bytes", np.random.default_rng(8).bytes(600)),
    constant("a picture instead", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4),
    lines("header alone", lambda rows: rows[:1]),
    lines("no header", lambda rows: rows[1:]),
    lines("a column missing", lambda rows: [row.split(b",")[0] for row in rows]),
    lines("a column twice", lambda rows: [rows[0].split(b",")[0] + b"," + rows[0].split(b",")[0], *rows[1:]]),
    lines("a row of one cell", lambda rows: [*rows[:2], b"lonely", *rows[2:]]),
    lines("a row of five cells", lambda rows: [*rows[:2], rows[2] + b",1,2,3", *rows[3:]]),
    lines("a case twice", lambda rows: [*rows, rows[1]]),
    lines("a case missing", lambda rows: [rows[0], *rows[2:]]),
    lines("an open quote", lambda rows: [rows[0], b'"' + rows[1], *rows[2:]]),
    lines("separated by semicolons", lambda rows: [row.replace(b",", b";") for row in rows]),
    lines("a null byte", lambda rows: [rows[0], rows[1] + b"\0", *rows[2:]]),
    last_cell("a cell of 200,000 characters", b"9" * 200_000),
    last_cell("an empty cell", b""),
    last_cell("text for a value", b"banana"),
    last_cell("a value of -1", b"-1"),
    last_cell("NaN", b"nan"),
    last_cell("inf", b"inf"),
    first_cell("a formula", b'=HYPERLINK("http://x")'),
    first_cell("a path", b"../../x"),
    first_cell("not UTF-8", b"\xe9\xff"),
    rewriting("in UTF-16", lambda content, _: content.decode().encode("utf-16")),
    rewriting("with a byte order mark", lambda content, _: b"\xef\xbb\xbf" + content, must_fail=False),
    rewriting("line ends of Windows", lambda content, _: content.replace(b"\n", b"\r\n"), must_fail=False),
]
# Cases without a class may be trained on for their masks, so a table of true classes need not hold every case; rows of cases
# that a command does not ask for are never looked at, and a row that is there twice says the same twice.
ALLOWED = {"header alone", "a case missing", "a formula", "a path", "an empty cell", "a row of one cell", "a case twice"}
CLASS_TABLE = [replace(damage, must_fail=damage.must_fail and damage.name not in ALLOWED) for damage in TABLE]
