"""The csv files that classification writes beside the masks.

    subtype_results.csv        Names,Subtype           quiz_001.nii.gz,2
    subtype_probabilities.csv  Names,p_0,p_1,p_2,lesion_found       quiz_001.nii.gz,0.103101,0.207713,0.689186,1

Both are named after the task; a row's name is its mask's file name. lesion_found is 0 where the case's mask shows no lesion: its
probabilities are then the classes' shares of the training cases. It is unknown where the class does not rest on the lesion. A text
that a spreadsheet would run (=..., +..., -..., @...) has an apostrophe in front (utilities/csv_cells.py).
"""

import csv
import glob
import io
import os
import time
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from threading import Lock

import numpy as np

from nnunetv2.utilities.classification import LESION_FOUND, ClassificationTask, lesion_mark
from nnunetv2.utilities.csv_cells import guarded, unguarded
from nnunetv2.utilities.csv_files import write_rows
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.files import read_text
from nnunetv2.utilities.folder_lock import folder_lock

Rows = dict[str, tuple[str, ...]]  # mask file name -> probabilities and lesion_found, as written
MERGE_SHARE = 0.05  # of the time of a run in parts may go into bringing the two tables up to date meanwhile


class ClassTables:
    """Rows of one run, merged with those of earlier runs whose masks are still there.

    Each row is on disk before its case's mask, so that a run that is killed and continued misses none; it is appended, so that a case
    costs the same however many there are. `finish` sorts the tables. When several processes share the folder (`num_parts`), each keeps
    its rows in a file of its own and merges all of them into the two tables, now and then and at the end, until it finds them complete
    there; so none is lost, whoever writes last, without a lock that file servers ignore.
    """

    def __init__(self, task: ClassificationTask, folder: Path, part_id: int = 0, num_parts: int = 1) -> None:
        self.task, self.folder = task, folder
        self.results = folder / task.results_file
        self.probabilities = folder / task.probabilities_file
        self._num_parts = num_parts
        self._part = folder / f".{task.name}_part_{part_id}_of_{num_parts}.csv" if num_parts > 1 else None
        self._lock = Lock()
        self._rows: Rows | None = None  # in the file that this run appends to; None before `begin`
        self._in_order = True
        self._merged_at, self._merge_seconds = 0.0, 0.0

    def names(self) -> set[str]:
        """Mask file names with a row in both tables, or in a part's file that goes into both."""
        with_class = {row[0] for row in _read(self.results, 2)[1:]}
        return with_class & set(self._read_probabilities(self.probabilities)) | set(self._rows_of_parts())

    def begin(self, redo: Iterable[str] = ()) -> None:
        """Take over what earlier runs left, without the rows of `redo`, the masks that this run is going to write."""
        redo = set(redo)
        earlier = {name: row for name, row in self._rows_of_parts(self._part).items() if name not in redo}
        self._show(self._with_mask(self._read_probabilities(self.probabilities) | earlier, redo))
        for path in self._part_files():
            if self._part is None or not path.name.endswith(f"_of_{self._num_parts}.csv"):  # of another division, now in the tables
                path.unlink(missing_ok=True)
        if self._part is None:
            self._rows = self._read_probabilities(self.probabilities)
        else:
            self._rows = {name: row for name, row in self._read_probabilities(self._part).items() if name not in redo}
            self._write(self._part, self._header(), self._rows)

    def read(self) -> None:
        """Take over all rows that the tables hold, as they are."""
        self._rows = self._read_probabilities(self.probabilities)
        if not self._rows:
            self._show({})  # a table of other classes gives way

    def add(self, mask_name: str, probabilities: np.ndarray, lesion_found: bool | None = None) -> None:
        """Write the row of a case; probabilities (n_classes,), lesion_found None where nobody looked.

        OSError if the disk does not take it, and then no part of it is there.
        """
        with self._lock:
            if self._rows is None:
                self.begin()
            row = _as_written(probabilities, lesion_found)
            again = mask_name in self._rows
            self._in_order &= again or not self._rows or mask_name > next(reversed(self._rows))
            if again or not all(path.is_file() for path in ([self._part] if self._part else [self.probabilities, self.results])):
                self._replace(self._rows | {mask_name: row})
            elif self._part is not None:
                _append(self._part, [mask_name, *row])
            else:
                _append(self.probabilities, [mask_name, *row])
                _append(self.results, [mask_name, self._class_of(row)])
            self._rows[mask_name] = row
            if self._part is not None and (time.monotonic() - self._merged_at) * MERGE_SHARE >= self._merge_seconds:
                self._merge()

    def add_all(self, probabilities: Mapping[str, np.ndarray], lesion_found: Mapping[str, bool | None]) -> None:
        """Write the rows of many cases, {mask name: (n_classes,)} and {mask name: as in `add`}, at once."""
        with self._lock:
            if self._rows is None:
                self.begin(probabilities)
            self._rows |= {name: _as_written(values, lesion_found.get(name)) for name, values in probabilities.items()}
            self._replace(self._rows)

    def finish(self) -> None:
        """Sort the tables, without rows whose masks could not be written, and in a run in parts bring them up to date."""
        with self._lock:
            if not self._rows:
                return
            written = self._with_mask(self._rows)
            if len(written) < len(self._rows) or (self._part is None and not self._in_order):
                self._rows = written
                self._replace(written)
            if self._part is not None:
                self._merge()

    def _replace(self, rows: Rows) -> None:
        if self._part is None:
            self._show(rows)
        else:
            self._write(self._part, self._header(), rows)

    def _merge(self) -> None:
        start = time.monotonic()
        while not self._rows_of_parts().items() <= self._read_probabilities(self.probabilities).items():
            self._show(self._with_mask(self._read_probabilities(self.probabilities)) | self._rows_of_parts())
        self._merged_at = time.monotonic()
        self._merge_seconds = self._merged_at - start

    def _show(self, rows: Rows) -> None:
        """Write the two tables, sorted; without rows only where there are tables already."""
        if not rows and not self.probabilities.is_file() and not self.results.is_file():
            return
        rows = dict(sorted(rows.items()))
        self._write(self.probabilities, self._header(), rows)
        self._write(self.results, ["Names", self.task.name.capitalize()], {name: (self._class_of(row),) for name, row in rows.items()})

    def _class_of(self, row: Sequence[str]) -> str:
        return self.task.classes[int(np.argmax([float(p) for p in row[:-1]]))]

    def _header(self) -> list[str]:
        return ["Names", *(f"p_{name}" for name in self.task.classes), LESION_FOUND]

    def _with_mask(self, rows: Rows, redo: Set[str] = frozenset()) -> Rows:
        """Those of `rows` whose mask is there and is not to be made anew."""
        files = {entry.name for entry in os.scandir(self.folder)} - redo
        return {name: row for name, row in rows.items() if name in files}

    def _part_files(self) -> list[Path]:
        return sorted(self.folder.glob(f".{glob.escape(self.task.name)}_part_*_of_*.csv"))

    def _rows_of_parts(self, without: Path | None = None) -> Rows:
        rows: Rows = {}
        for path in self._part_files():
            if path != without:
                rows |= self._read_probabilities(path)
        return rows

    def _read_probabilities(self, path: Path) -> Rows:
        """Rows of a table of this task; {} where it is absent, lists other classes or lacks a column."""
        table = _read(path, len(self._header()))
        return {name: tuple(row) for name, *row in table[1:]} if table and table[0] == self._header() else {}

    @staticmethod
    def _write(path: Path, header: Sequence[str], rows: Rows) -> None:
        write_rows(path, [header, *((name, *row) for name, row in rows.items())])


class SharedClassTables:
    """Rows of calls that share a folder with other threads and processes, each of which knows its own cases alone.

    A row is appended, or takes the place of an earlier one of its mask; rows of others stay, whether their masks are there yet or not.
    """

    _one_at_a_time = Lock()  # in this process; between processes a file is locked, at which waiting is slow

    def __init__(self, task: ClassificationTask, folder: Path) -> None:
        self._tables = ClassTables(task, folder)
        self._seen: tuple[list[int], ...] | None = None

    def add(self, mask_name: str, probabilities: np.ndarray, lesion_found: bool | None = None) -> None:
        """As `ClassTables.add`. FolderBusy while the folder is a run's own."""
        folder = self._tables.folder
        with (self._one_at_a_time, folder_lock(folder, "prediction", "class rows are written", shared=True),
              folder_lock(folder, "class_rows", "class rows are written", wait=True)):
            if self._seen != self._stamps():
                self._tables.read()
            self._tables.add(mask_name, probabilities, lesion_found)
            self._seen = self._stamps()

    def _stamps(self) -> tuple[list[int], ...]:
        return tuple([status.st_size, status.st_mtime_ns, status.st_ino] for path in (self._tables.probabilities, self._tables.results)
                     if path.is_file() and (status := path.stat()))


def _as_written(probabilities: np.ndarray, lesion_found: bool | None) -> tuple[str, ...]:
    return (*(f"{p:.6f}" for p in probabilities), lesion_mark(lesion_found))


def _append(path: Path, row: Sequence[str]) -> None:
    """A row at the end of a table, on the disk; whole or not there."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(map(guarded, row))
    with open(path, "ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            left = memoryview(text.getvalue().encode())
            while left:
                left = left[file.write(left):]
            os.fsync(file.fileno())
        except OSError as error:
            file.truncate(size)
            error.filename = str(path)
            raise


def _read(path: Path, n_columns: int) -> list[list[str]]:
    """Rows of `n_columns`, the header first; what a killed process was writing, a last line without its end, is left out."""
    try:
        text = read_text(path, "Delete it; its cases are predicted again.")
        rows = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline="")))
    except FileNotFoundError:
        return []
    except csv.Error as error:
        raise InputError(f"{path} is no table ({error}). Delete it; its cases are predicted again.") from error
    return [[unguarded(cell) for cell in row] for row in rows if len(row) == n_columns]
