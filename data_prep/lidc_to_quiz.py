"""Lay REAL lung nodules (LIDC-IDRI crops with masks and readers' ratings) out as the quiz's data are, with a class task of your choice.

    python data_prep/lidc_to_quiz.py --out lidc_quiz                              # ../shared/lidc; malignancy, 3 classes
    python data_prep/lidc_to_quiz.py --source FOLDER --out lidc_quiz --task texture
    bash experiments/run_fold0.sh --data lidc_quiz --out results/lidc_fold0 --epochs 12 --iterations 40

FOLDER holds image/CASE.nii.gz, nodule_mask/CASE.nii.gz and nodules.csv (case, patient_id, class3, Texture, ...). Written: train/,
validation/ and test/ split by patient (70 : 15 : 15, --seed), classes.csv, patients.csv and dataset_description.json. Every crop is
turned to one orientation (LPS), its mask with it. Classes are readers' ratings, binned as TASKS says; no pathology. Malignancy is
mostly size: lay every figure beside the mask's volume alone.
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.case_checks import problem_list, run_parallel
from data_prep.oriented_files import write_oriented
from data_prep.quiz_layout import SHARES, refuse_other_data, shared_out
from nnunetv2.utilities.commands import Parser, script, whole_number
from nnunetv2.utilities.csv_files import given_twice, read_csv, write_rows
from nnunetv2.utilities.data_description import FILE
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.files import save_json
from nnunetv2.utilities.safe_names import plain_names

SOURCE = Path(__file__).resolve().parents[2] / "shared" / "lidc"
CITATION = ("LIDC-IDRI, The Cancer Imaging Archive, doi:10.7937/K9/TCIA.2015.LO9QL9SX; Armato et al. 2011, Med Phys 38:915-931; "
            "Clark et al. 2013, J Digit Imaging 26:1045-1057; cropped and voted at the Computer Vision Center, UAB")


@dataclass(frozen=True)
class Task:
    """A class task: the column of nodules.csv and which of its values make which class."""

    column: str
    classes: dict[str, tuple[str, ...]]


TASKS = {
    "malignancy": Task("class3", {"low": ("0",), "unsure": ("1",), "high": ("2",)}),  # rated 1-2, 3, 4-5
    "texture": Task("Texture", {"non-solid": ("Non-Solid/GGO",), "part-solid": ("Non-Solid/Mixed", "Part Solid/Mixed", "Solid/Mixed"), "solid": ("Solid",)}),
    "margin": Task("Margin", {"poor": ("Poorly Defined", "Near Poorly Defined"), "medium": ("Medium Margin", "Near Sharp"), "sharp": ("Sharp",)}),
    "spiculation": Task("Spiculation", {"none": ("No Spiculation",), "some": ("Nearly No Spiculation", "Medium Spiculation",
                                                                             "Near Marked Spiculation", "Marked Spiculation")}),
    "calcification": Task("Calcification", {"absent": ("Absent",), "present": ("Solid", "Laminated", "Central", "Popcorn", "Non-central")}),
}


@dataclass(frozen=True)
class Nodule:
    name: str
    patient: str
    label: str  # class


def read_nodules(source: Path, task: Task) -> list[Nodule]:
    """The cases of nodules.csv, sorted by name; InputError lists values without a class and files that are not there."""
    table = source / "nodules.csv"
    if not table.is_file():
        raise InputError(f"{table} does not exist. Put the LIDC-IDRI crops there, or name their folder with --source.")
    class_of = {value: name for name, values in task.classes.items() for value in values}
    content = read_csv(table, ["case", "patient_id", task.column])
    plain_names([row["case"] for row in content.rows], "case", table)
    problems = [f"{table}: {problem}" for problem in given_twice([row["case"] for row in content.rows], content.lines)]
    problems += [f"{table}: {row['case']}: {task.column} {row[task.column]!r} is in no class" for row in content.rows if row[task.column] not in class_of]
    problems += [f"{table}: {row['case']}: no patient_id" for row in content.rows if not row["patient_id"]]
    problems += [f"{file}: does not exist" for row in content.rows for file in _files(source, row["case"]) if not file.is_file()]
    if problems:
        raise InputError(f"{source} cannot be converted. {problem_list(problems)}")
    return sorted((Nodule(row["case"], row["patient_id"], class_of[row[task.column]]) for row in content.rows), key=lambda nodule: nodule.name)


def split_by_patient(nodules: list[Nodule], classes: list[str], seed: int) -> dict[str, str]:
    """{case: train, validation or test}; each patient in one split, the patients of each class shared out as SHARES says.

    A patient counts as the highest class among the nodules. Deterministic in the set of cases and the seed.
    """
    rng = np.random.default_rng(seed)
    highest: dict[str, int] = {}
    for nodule in nodules:
        highest[nodule.patient] = max(highest.get(nodule.patient, 0), classes.index(nodule.label))
    split_of: dict[str, str] = {}
    for k in range(len(classes)):
        patients = rng.permutation(sorted(patient for patient, label in highest.items() if label == k)).tolist()
        split_of |= shared_out(patients)
    return {nodule.name: split_of[nodule.patient] for nodule in nodules}


def convert(source: Path, out: Path, task_name: str = "malignancy", seed: int = 0, n: int | None = None, processes: int | None = None) -> dict[str, str]:
    """Write `out`; returns {case: split}. n: that many cases at most, drawn from all, for a quick look."""
    task = TASKS[task_name]
    nodules = read_nodules(source, task)
    if n is not None and n < len(nodules):
        chosen = set(np.random.default_rng(seed).permutation([nodule.name for nodule in nodules])[:n].tolist())
        nodules = [nodule for nodule in nodules if nodule.name in chosen]
    splits = split_by_patient(nodules, list(task.classes), seed)
    for split in SHARES:
        (out / split).mkdir(parents=True, exist_ok=True)
    run_parallel(partial(_write, source, out, splits), nodules, "writing REAL cases", processes)
    for name, header, values in (("classes.csv", task_name, {n.name: n.label for n in nodules if splits[n.name] != "test"}),
                                 ("patients.csv", "patient", {n.name: n.patient for n in nodules})):
        write_rows(out / name, [["case", header], *sorted(values.items())])
    save_json({
        "name": "LungNodules", "title": "lung nodules", "channel_names": {"0": "CT"}, "labels": {"background": 0, "nodule": 1}, "lesion": "nodule",
        "classification": {"name": task_name, "classes": list(task.classes), "labels": "classes.csv"}, "patients": "patients.csv",
        "window": [-1350, 150],  # width 1500, level -600: the usual window for the lung
        "source": CITATION, "licence": "CC BY 3.0", "real": True,
        "made_with": {"seed": seed, "binning": {name: list(values) for name, values in task.classes.items()}, "column": task.column},
    }, out / FILE)
    return splits


def _files(source: Path, name: str) -> tuple[Path, Path]:
    return source / "image" / f"{name}.nii.gz", source / "nodule_mask" / f"{name}.nii.gz"


def _write(source: Path, out: Path, splits: dict[str, str], nodule: Nodule) -> None:
    image, mask = _files(source, nodule.name)
    folder = out / splits[nodule.name]
    write_oriented(image, folder / f"{nodule.name}_0000.nii.gz")
    if splits[nodule.name] != "test":
        write_oriented(mask, folder / f"{nodule.name}.nii.gz")


@script
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--source", type=Path, default=SOURCE, help="folder with nodules.csv, image/ and nodule_mask/ (default ../shared/lidc)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the data in the quiz's layout; must not hold other data")
    parser.add_argument("--task", choices=TASKS, default="malignancy", help="rating that makes the classes (default malignancy)")
    parser.add_argument("--seed", type=whole_number(0, 2**32 - 1), default=0, help="of the split (default 0)")
    parser.add_argument("--n", type=whole_number(1), help="that many cases at most, drawn at random (default: all)")
    parser.add_argument("-np", "--processes", type=whole_number(0), help="default: one per core, at most 8")
    args = parser.parse_args(arguments)
    refuse_other_data(args.out)
    splits = convert(args.source, args.out, args.task, args.seed, args.n, args.processes)
    counts = ", ".join(f"{split} {list(splits.values()).count(split)}" for split in SHARES)
    print(f"{args.out}: {len(splits)} REAL cases ({counts}), task {args.task}. Source: {CITATION}. Licence: CC BY 3.0")


if __name__ == "__main__":
    main()
