"""The folders that one prediction writes to: what is done there, what stands beside the masks, what the run leaves in the end."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from threading import Lock

import numpy as np

from nnunetv2.imageio.whole_file import damage_of_written
from nnunetv2.inference.cases import missing_outputs
from nnunetv2.inference.class_tables import ClassTables, SharedClassTables
from nnunetv2.inference.export_prediction import damage_of_probabilities
from nnunetv2.inference.pipeline import Case
from nnunetv2.utilities.classification import ClassificationTask
from nnunetv2.utilities.files import save_json
from nnunetv2.utilities.folder_lock import prediction_lock
from nnunetv2.utilities.leftovers import new_token, sweep
from nnunetv2.utilities.prediction_manifest import PredictionManifest


class OutputFolders:
    """Masks, with a class task the two class tables, and what postprocessing and ensembling read (dataset.json, plans.json), and the manifest.

    made_with: model and settings, for the manifest. Cases with paths of their own may lie in several folders; each has all of it. Without outputs there is no folder and nothing to do.
    """

    def __init__(self, cases: Sequence[Case], dataset_json: dict, plans: dict, task: ClassificationTask | None, made_with: dict,
                 part_id: int = 0, num_parts: int = 1) -> None:
        self.task, self.ending, self._lock = task, dataset_json["file_ending"], Lock()
        self.part = f"_part_{part_id}_of_{num_parts}" if num_parts > 1 else ""
        self.cases = [case for case in cases if case.output is not None]
        self._by_folder: dict[Path, list[Case]] = {}
        for case in self.cases:
            self._by_folder.setdefault(case.output.parent, []).append(case)
        self.tables: dict[Path, ClassTables] = {}
        self._shared: dict[Path, SharedClassTables] = {}
        self.manifests: dict[Path, PredictionManifest] = {}
        for folder, its_cases in self._by_folder.items():
            folder.mkdir(parents=True, exist_ok=True)
            save_json(dataset_json, folder / "dataset.json")
            save_json(plans, folder / "plans.json")
            if task is not None:
                self.tables[folder] = ClassTables(task, folder, part_id, num_parts)
            self.manifests[folder] = PredictionManifest(
                folder, made_with, {f"{case.output.name}{self.ending}": case.files_read for case in its_cases}, part_id, num_parts)
        sweep(*self._by_folder)

    def done(self, save_probabilities: bool) -> set[int]:
        """Positions of the cases whose files are all there and whole, from the present images, the row in the class tables included.

        InputError where the masks there are of another model or were made with other settings.
        """
        endings = [self.ending, *((".npz", ".pkl") if save_probabilities else ())]
        absent = missing_outputs(self.cases, endings)
        rows = {folder: tables.names() for folder, tables in self.tables.items()}
        changed = {folder: manifest.changed_inputs() for folder, manifest in self.manifests.items()}
        done = set()
        for case in self.cases:
            mask, folder = f"{case.output.name}{self.ending}", case.output.parent
            if case.position in absent or mask in changed[folder] or (rows and mask not in rows[folder]):
                continue
            damage = damage_of_written(f"{case.output}{self.ending}") or (damage_of_probabilities(case.output) if save_probabilities else None)
            if damage is None:
                done.add(case.position)
            else:
                print(f"{damage}; it is made again.")
        return done

    def begin(self, cases: Sequence[Case]) -> None:
        """`cases` are going to be written; their rows of earlier runs go."""
        positions = {case.position for case in cases}
        for folder, manifest in self.manifests.items():
            manifest.begin({f"{case.output.name}{self.ending}" for case in self._by_folder[folder] if case.position in positions})
        for folder, tables in self.tables.items():
            tables.begin(f"{case.output.name}{self.ending}" for case in self._by_folder[folder] if case.position in positions)

    def add_class(self, case: Case, class_probabilities: np.ndarray, lesion_found: bool | None) -> None:
        """The row of `case`, which comes before its mask."""
        with self._lock:
            tables = self.tables.get(case.output.parent) or self._shared.setdefault(  # a case that nobody knew of at the start
                case.output.parent, SharedClassTables(self.task, case.output.parent))
        tables.add(f"{case.output.name}{self.ending}", class_probabilities, lesion_found)

    def finish(self, report: dict) -> dict[str, OSError]:
        """Sort the tables and write prediction_times.json, with the cases of each folder; what the disk did not take, by its name."""
        unwritten: dict[str, OSError] = {}

        def attempt(path: Path, write: Callable[[], None]) -> None:
            try:
                write()
            except OSError as error:
                unwritten[str(path)] = error

        for tables in self.tables.values():
            attempt(tables.results, tables.finish)
        for manifest in self.manifests.values():
            attempt(manifest.path, manifest.finish)
        for folder, cases in self._by_folder.items():
            labels = {case.label for case in cases}
            its_own = {key: {label: value for label, value in entry.items() if label in labels} if isinstance(entry, dict) else entry
                       for key, entry in report.items()}
            times = folder / f"prediction_times{self.part}.json"
            attempt(times, partial(save_json, its_own, times))
        return unwritten


@contextmanager
def prediction_locks(cases: Sequence[Case], part_id: int = 0, num_parts: int = 1) -> Iterator[None]:
    """The folders that `cases` are written to are this run's, or shared with the other parts of the same division."""
    with ExitStack() as stack:
        for folder in sorted({case.output.parent for case in cases if case.output is not None}):
            stack.enter_context(prediction_lock(folder, part_id, num_parts))
        yield


def refuse_unwritable(folder: str | os.PathLike) -> None:
    """Make `folder` and a file in it, for a moment: OSError before anything is computed rather than after."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".probe.{new_token()}"  # of a name that is swept where a kill leaves it
    try:
        probe.touch(exist_ok=False)
    except OSError as error:
        error.filename = str(folder)
        raise
    probe.unlink()
