"""The csv files that classification writes beside the masks.

    subtype_results.csv        Names,Subtype           quiz_001.nii.gz,2
    subtype_probabilities.csv  Names,p_0,p_1,p_2       quiz_001.nii.gz,0.103101,0.207713,0.689186

Both are named after the task; a row's name is its mask's file name.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import numpy as np

from nnunetv2.utilities.classification import ClassificationTask
from nnunetv2.utilities.files import atomic_write, remove_leftovers

Rows = dict[str, tuple[str, ...]]  # mask file name -> probabilities as written


class ClassTables:
    """Rows of one run, merged with those of earlier runs whose masks are still there.

    Each row is on disk before its case's mask, so that a run that is killed and continued misses none. When several
    processes share the folder (`num_parts`), each keeps its rows in a file of its own and merges all of them into the two
    tables until it finds them complete there; so none is lost, whoever writes last, without a lock that file servers ignore.
    """

    def __init__(self, task: ClassificationTask, folder: Path, part_id: int = 0, num_parts: int = 1) -> None:
        self.task, self.folder = task, folder
        self.results = folder / f"{task.name}_results.csv"
        self.probabilities = folder / f"{task.name}_probabilities.csv"
        self._part = folder / f".{task.name}_part_{part_id}_of_{num_parts}.csv" if num_parts > 1 else None
        self._lock = Lock()
        self._own: Rows = {}
        if self._part is None:
            for outdated in folder.glob(f".{task.name}_part_*_of_*.csv"):
                outdated.unlink()
            remove_leftovers(self.results, self.probabilities)
        else:
            self._part.unlink(missing_ok=True)

    def names(self) -> set[str]:
        """Mask file names with a row in both tables."""
        with_class = {row[0] for row in _read(self.results)[1:]}
        return with_class & set(self._read_probabilities(self.probabilities))

    def add(self, mask_name: str, probabilities: np.ndarray) -> None:
        """Write the row of a case; probabilities (n_classes,)."""
        with self._lock:
            self._own[mask_name] = tuple(f"{p:.6f}" for p in probabilities)
            if self._part is None:
                self._write_tables()
                return
            self._write(self._part, self._header(), self._own)
            while not self._parts().items() <= self._read_probabilities(self.probabilities).items():
                self._write_tables()

    def _header(self) -> list[str]:
        return ["Names", *(f"p_{name}" for name in self.task.classes)]

    def _parts(self) -> Rows:
        parts: Rows = {}
        for path in sorted(self.folder.glob(f".{self.task.name}_part_*_of_*.csv")):
            parts |= self._read_probabilities(path)
        return parts | self._own

    def _write_tables(self) -> None:
        earlier = {name: row for name, row in self._read_probabilities(self.probabilities).items() if (self.folder / name).is_file()}
        rows = dict(sorted((earlier | self._parts()).items()))
        classes = {name: (self.task.classes[int(np.argmax([float(p) for p in row]))],) for name, row in rows.items()}
        self._write(self.probabilities, self._header(), rows)
        self._write(self.results, ["Names", self.task.name.capitalize()], classes)

    def _read_probabilities(self, path: Path) -> Rows:
        """Rows of a table of this task; [] where it is absent or lists other classes."""
        table = _read(path)
        return {name: tuple(row) for name, *row in table[1:]} if table and table[0] == self._header() else {}

    @staticmethod
    def _write(path: Path, header: Sequence[str], rows: Rows) -> None:
        with atomic_write(path) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            writer.writerows([name, *row] for name, row in rows.items())


def _read(path: Path) -> list[list[str]]:
    if not path.is_file():
        return []
    with open(path, newline="") as file:
        return [row for row in csv.reader(file) if row]
