"""Tables in CSV files, read so that a damaged one is refused with every bad line named, and written whole."""

import csv
import io
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from nnunetv2.utilities.csv_cells import guarded, unguarded
from nnunetv2.utilities.errors import InputError, list_some
from nnunetv2.utilities.files import atomic_write, read_text

MAX_FIELD = 4096  # characters; a case's name or a number is far shorter, and a quote that is never closed swallows the rest of the file
_SHOWN = 20  # problems of one file


@dataclass(frozen=True)
class Table:
    """The content of a CSV file; every row has a value, maybe empty, in each column. Blanks around values are gone."""

    columns: list[str]
    rows: list[dict[str, str]]
    lines: list[int]  # line of the file in which each row begins, from 1


def read_csv(path: str | os.PathLike, columns: Sequence[str] | None = None, only_these: bool = False, pad: bool = False, optional: Sequence[str] = ()) -> Table:
    """Read a table with a header; empty lines are left out.

    Args:
        columns: must be there, in any order.
        only_these: and no others but those of `optional`.
        pad: lines that end early have empty values; else they are refused.
    Raises:
        OSError: it is not there or cannot be read.
        InputError: it is empty, not UTF-8, or lacks columns or has one twice, or has lines with too many or too few fields, an
            open quote, or control characters. The message names the file and lists every bad line with its number.
    """
    return parse_csv(read_text(path, "Export the table again."), path, columns, only_these, pad, optional)


def parse_csv(text: str, where: object, columns: Sequence[str] | None = None, only_these: bool = False, pad: bool = False,
              optional: Sequence[str] = ()) -> Table:
    """As `read_csv`, of text that comes from `where`. The apostrophes that keep formulas from running (csv_cells.py) are taken off."""
    bad = sorted({character for character in text if character < " " and character not in "\t\r\n"})
    if bad:
        lines = [str(number) for number, line in enumerate(text.split("\n"), 1) if any(character in line for character in bad)]
        raise InputError(f"{where}: holds control characters ({', '.join(map(repr, bad))}) in line(s) {', '.join(lines[:_SHOWN])}; it is damaged or no text. "
                         "Export the table again.")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    records: list[tuple[int, list[str]]] = []
    line = 1
    try:
        for record in reader:
            if any(field.strip() for field in record):
                records.append((line, [unguarded(field.strip()) for field in record]))
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{where}: line {line} is no line of a table ({error}); a quote may be open. Mend it, or export the table again.") from error
    if not records:
        raise InputError(f"{where}: is empty; its first line must hold the columns{' ' + ','.join(columns) if columns else ''}.")
    header = records[0][1]
    _check_header(header, where, columns, only_these, optional)
    problems = [f"line {number}: {len(record)} field(s) under {len(header)} columns: {','.join(record)[:60]!r}"
                for number, record in records[1:] if len(record) > len(header) or len(record) < len(header) and not pad]
    problems += [f"line {number}: a field of {len(field)} characters, {field[:30]!r}...; a quote may be open"
                 for number, record in records for field in record if len(field) > MAX_FIELD]
    refuse(where, problems)
    return Table(header, [dict(zip_longest(header, record, fillvalue="")) for _, record in records[1:]], [number for number, _ in records[1:]])


def write_csv(path: str | os.PathLike, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write a table that `read_csv` reads, whole or not at all."""
    write_rows(path, [columns, *([row[column] for column in columns] for row in rows)])


def write_rows(path: str | os.PathLike, rows: Iterable[Iterable[object]]) -> None:
    """Write rows, the header first, whole or not at all; a text that a spreadsheet would run is guarded (csv_cells.py)."""
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(map(guarded, row) for row in rows)


def refuse(where: object, problems: Sequence[str]) -> None:
    """InputError that lists `problems` of a table; nothing without any."""
    if problems:
        raise InputError(f"{where} has {len(problems)} bad row(s), correct or delete them:\n{list_some(problems, _SHOWN)}")


def given_twice(names: Sequence[str], lines: Sequence[int]) -> list[str]:
    """A problem for each name that stands in several rows, and for each row without one."""
    where: dict[str, list[int]] = {}
    for name, line in zip(names, lines):
        where.setdefault(name, []).append(line)
    return [f"{name} is there {len(places)} times, in lines {', '.join(map(str, places))}; keep one of them" for name, places in where.items() if name and len(places) > 1] \
        + [f"line {line}: the name is missing; give it, or delete the line" for line in where.get("", [])]


def _check_header(header: list[str], where: object, columns: Sequence[str] | None, only_these: bool, optional: Sequence[str]) -> None:
    twice = [name for name, n in Counter(header).items() if n > 1]
    missing = [name for name in columns or () if name not in header]
    further = [name for name in header if name not in (*(columns or ()), *optional)] if only_these else []
    if not (twice or missing or further):
        return
    reasons = [f"{what} the column(s) {', '.join(map(repr, names))}"
               for what, names in (("lacks", missing), ("must not have", further), ("has twice", twice)) if names]
    hint = " Separate fields by commas." if missing and len(header) == 1 and any(mark in header[0] for mark in ";\t|") else ""
    expected = f", expected {','.join(columns)}" if columns else ""
    raise InputError(f"{where}: {'; '.join(reasons)}; its header is {','.join(header)[:200]}{expected}.{hint}")
