"""Convert the quiz's folder into an nnU-Net raw dataset with a subtype for each case, after checking every file of it.

    python data_prep/convert_quiz.py --data data --dry-run                 # check and count, write nothing
    python data_prep/convert_quiz.py --data data --out nnUNet_raw          # $nnUNet_raw where --out is left out
    python data_prep/convert_quiz.py --data data --out nnUNet_raw --symlink          # link images instead of copying them
    python data_prep/convert_quiz.py --data data --out nnUNet_raw --fix-geometry     # resample masks that lie on another grid

Written: OUT/Dataset777_PancreasCT/
    imagesTr, labelsTr   training and validation cases; masks as uint8 0, 1, 2 on exactly their image's grid
    imagesTs             test images
    dataset.json         with `classification`, and `holdout`: the validation cases, which nothing may be fitted on
    subtypes.csv         case,subtype (other data: classes.csv, case,TASK; none without a class task)
    splits_final.json    fold 0 the quiz's own split; folds 1-5 a stratified 5-fold inside its training cases

Every case is checked before anything is written; if one is bad, all bad ones are listed and nothing is written. What a
former run has written and is still right is kept. Data with a dataset_description.json (see nnunetv2/utilities/data_description.py) become
Dataset777_NAME with labels, classes and names of their own; patients are kept together in the folds.
"""

import os
import shutil
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.case_checks import Inspection, case_warnings, inspect_all, problem_list, read_labels, run_parallel, summary_table
from data_prep.quiz_layout import SYNTHETIC_MARKER, Case, scan_quiz
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, read_volume
from nnunetv2.utilities.commands import Parser, script, whole_number
from nnunetv2.utilities.csv_files import write_rows
from nnunetv2.utilities.data_description import THE_QUIZ, DataDescription, carried, read_description
from nnunetv2.utilities.data_manifest import read_manifest
from nnunetv2.utilities.files import atomic_write, save_json
from nnunetv2.utilities.folder_lock import folder_lock
from nnunetv2.utilities.leftovers import sweep
from nnunetv2.utilities.manifest import MANIFEST_FILE, file_hash, origin, quick_hash
from nnunetv2.utilities.safe_names import plain_name

DATASET = THE_QUIZ.dataset
FOLDS, SEED = 5, 12345  # nnU-Net's own number of folds and seed


def convert(data: str | os.PathLike, out: str | os.PathLike, dataset: str | None = None, symlink: bool = False,
            fix_geometry: bool = False, dry_run: bool = False, processes: int | None = None) -> list[Inspection]:
    """Check `data` and write `out`/`dataset` (default: as the data's description names it); returns what was found in each case.

    Raises ValueError with one line for each thing that is wrong; then nothing has been written.
    """
    data = Path(data)
    description = read_description(data)
    target = Path(out) / plain_name(description.dataset if dataset is None else dataset, "dataset", "--dataset")
    cases, problems = scan_quiz(data, description)
    inspections = inspect_all(cases, fix_geometry, processes, description)
    problems += [problem for found in inspections for problem in found.problems]
    problems += _foreign_files(target, cases)
    if problems:
        raise ValueError(f"{data} cannot be converted. {problem_list(problems)}")
    if not dry_run:
        with folder_lock(target, "conversion", f"{data} is converted"):
            sweep(*(target / part for part in ("", "imagesTr", "labelsTr", "imagesTs")))
            _write(target, data, cases, description, symlink, fix_geometry, processes)
    return inspections


def _write(target: Path, data: Path, cases: list[Case], description: DataDescription, symlink: bool, fix_geometry: bool, processes: int | None) -> None:
    run_parallel(partial(_write_case, target, symlink, fix_geometry, description.label_values), cases, "writing cases", processes)
    _write_tables(target, cases, description, synthetic=(data / SYNTHETIC_MARKER).is_file() or description.made_up)
    _write_manifest(target, data.absolute(), cases)


def stratified_folds(subtypes: dict[str, str], folds: int = FOLDS, seed: int = SEED, patients: dict[str, str] | None = None) -> list[dict[str, list[str]]]:
    """{train, val} lists of a stratified k-fold over {case: subtype}, deterministic in the set of cases.

    Cases are shuffled within their subtype and dealt round robin, going on where the last subtype stopped: fold sizes differ
    by at most one, and so does each subtype's share. Fewer cases than folds give fewer folds. With {case: patient} patients are dealt,
    each with all of its cases, by the subtype that most of these have.
    """
    rng = np.random.default_rng(seed)
    groups: dict[str, list[str]] = {}
    for case in sorted(subtypes):
        groups.setdefault((patients or {}).get(case, case), []).append(case)
    kinds = {group: Counter(sorted(subtypes[case] for case in cases)).most_common(1)[0][0] for group, cases in groups.items()}
    dealt = [group for kind in sorted(set(kinds.values()))
             for group in rng.permutation(sorted(g for g, k in kinds.items() if k == kind)).tolist()]
    held_out = [{case for group in dealt[fold::folds] for case in groups[group]} for fold in range(min(folds, len(dealt)))]
    return [{"train": sorted(subtypes.keys() - out), "val": sorted(out)} for out in held_out]


def _target_files(target: Path, case: Case) -> tuple[Path, Path | None]:
    part = "Ts" if case.split == "test" else "Tr"
    image = target / f"images{part}" / f"{case.name}_0000.nii.gz"
    return image, None if case.mask is None else target / "labelsTr" / f"{case.name}.nii.gz"


def _foreign_files(target: Path, cases: list[Case]) -> list[str]:
    """Files of another conversion, which nnU-Net would take for cases."""
    ours = {file for case in cases for file in _target_files(target, case)}
    found = (file for part in ("imagesTr", "labelsTr", "imagesTs") for file in sorted((target / part).glob("*.nii.gz")))
    return [f"{file}: belongs to no case of this data; delete it" for file in found
            if file not in ours and not file.name.startswith(".")]


def _write_case(target: Path, symlink: bool, fix_geometry: bool, values: tuple[int, ...], case: Case) -> None:
    image_file, mask_file = _target_files(target, case)
    _provide_image(case.image.resolve(), image_file, symlink)
    if mask_file is None:
        return
    image, properties = read_volume(case.image)
    labels = read_labels(case.mask, image, properties, fix_geometry, values)
    if not _holds(mask_file, labels, properties):
        SimpleITKIO().write_seg(labels, mask_file, properties)


def _provide_image(source: Path, target: Path, symlink: bool) -> None:
    """Link or copy; a right link, or a copy of the same size and time, is kept."""
    if symlink:
        if not (target.is_symlink() and target.resolve() == source):
            with atomic_write(target) as temporary:
                temporary.symlink_to(source)
        return
    same = target.is_file() and not target.is_symlink()
    if same:
        ours, theirs = target.stat(), source.stat()
        same = (ours.st_size, ours.st_mtime_ns) == (theirs.st_size, theirs.st_mtime_ns)
    if not same:
        with atomic_write(target) as temporary:
            shutil.copy2(source, temporary)


def _holds(file: Path, labels: np.ndarray, properties: dict) -> bool:
    """Whether `file` is exactly this mask; a damaged one is not."""
    try:
        written, geometry = read_volume(file)
    except (OSError, ValueError):
        return False
    return geometry == properties and np.array_equal(written, labels)


def table_name(description: DataDescription) -> str | None:
    """File of the classes beside dataset.json; None without a class task."""
    return None if description.task is None else "subtypes.csv" if description.is_quiz else "classes.csv"


def _write_tables(target: Path, cases: list[Case], description: DataDescription, synthetic: bool) -> None:
    """dataset.json, the table of classes and splits_final.json; dataset.json last, because its presence says that all is there."""
    names = {split: sorted(case.name for case in cases if case.split == split) for split in ("train", "validation")}
    subtypes = {case.name: case.subtype or "" for case in cases if case.split != "test"}
    patients = {case.name: case.patient for case in cases if case.patient is not None}
    table = table_name(description)
    if table:
        write_rows(target / table, [["case", description.task], *sorted(subtypes.items())])
    quiz_split = {"train": names["train"], "val": names["validation"]}
    folds = stratified_folds({name: subtypes[name] for name in names["train"]}, patients=patients)
    save_json([quiz_split, *folds], target / "splits_final.json")
    if synthetic:
        with atomic_write(target / SYNTHETIC_MARKER) as temporary:
            temporary.write_text("Computer-generated phantoms, not patients.\n", encoding="utf-8")
    save_json({
        "name": target.name,
        "channel_names": description.content.get("channel_names", {"0": "CT"}),
        "labels": description.content["labels"],
        "numTraining": len(subtypes),
        "file_ending": ".nii.gz",
        **({"classification": {"name": description.task, "classes": list(description.classes), "labels": table,
                               "lesion_labels": list((description.lesion or description.whole).labels)}} if table else {}),
        "holdout": names["validation"],
        "synthetic": synthetic,
        **carried(description),
    }, target / "dataset.json")


def _write_manifest(target: Path, data: Path, cases: list[Case]) -> None:
    """What was converted, for nnUNetv2_verify: hashes of the files of each case, by their place in `data`, and of the tables."""
    sources = {case.name: {str(file.absolute().relative_to(data)): quick_hash(file) for file in (case.image, case.mask) if file is not None}
               for case in cases}
    tables = {name: file_hash(target / name) for name in ("dataset.json", "subtypes.csv", "classes.csv", "splits_final.json") if (target / name).exists()}
    made_from = {"data": str(data), "sources": sources, "tables": tables}
    if not made_from.items() <= read_manifest(target).items():  # else it keeps its date: later stages depend on the folder's content
        save_json(origin() | made_from, target / MANIFEST_FILE)


@script
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/, validation/ and test/")
    parser.add_argument("--out", type=Path, default=os.environ.get("nnUNet_raw"), help="nnUNet_raw; default: $nnUNet_raw")
    parser.add_argument("--dataset", help=f"name of the dataset's folder (default {DATASET}, or Dataset777_NAME of the description)")
    parser.add_argument("--dry-run", action="store_true", help="check everything and print the table, write nothing")
    parser.add_argument("--symlink", action="store_true", help="link images instead of copying them")
    parser.add_argument("--fix-geometry", action="store_true", help="resample masks onto their image's grid where the two differ")
    parser.add_argument("-np", "--processes", type=whole_number(0), help="default: one per core, at most 8")
    args = parser.parse_args(arguments)
    if args.out is None and not args.dry_run:
        parser.error("give --out, or: export nnUNet_raw=/path/to/nnUNet_raw")
    inspections = convert(args.data, args.out or "", args.dataset, args.symlink, args.fix_geometry, args.dry_run, args.processes)
    description = read_description(args.data)
    print(summary_table(inspections, description))
    print("".join(f"warning: {line}\n" for line in case_warnings(inspections, description)), end="", file=sys.stderr)
    print("Nothing written (--dry-run)." if args.dry_run else f"Written to {args.out / (description.dataset if args.dataset is None else args.dataset)}")


if __name__ == "__main__":
    main()
