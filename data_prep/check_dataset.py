"""Check a quiz folder or a converted dataset, print its table, and list everything that is wrong with it.

    python data_prep/check_dataset.py data
    python data_prep/check_dataset.py nnUNet_raw/Dataset777_PancreasCT

Exit status 1 when anything is wrong.
"""

import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.case_checks import Inspection, case_warnings, inspect_all, problem_list, summary_table
from data_prep.quiz_layout import Case, scan_quiz
from nnunetv2.utilities.commands import Parser, script, whole_number
from nnunetv2.utilities.csv_files import read_csv
from nnunetv2.utilities.data_description import DataDescription, description_of_dataset, read_description
from nnunetv2.utilities.dataset_files import get_filenames_of_train_images_and_targets
from nnunetv2.utilities.errors import InputError, in_one_message
from nnunetv2.utilities.file_shapes import RawDatasetJson, Splits
from nnunetv2.utilities.files import is_there, load_json
from nnunetv2.utilities.image_listing import scan_images
from nnunetv2.utilities.splits import split_problems

IMAGE_ENDING, MASK_ENDING = "_0000.nii.gz", ".nii.gz"


def check_dataset(folder: Path, processes: int | None = None) -> tuple[list[Inspection], list[str]]:
    """What each case holds and one line for each problem; a folder with dataset.json counts as converted."""
    description = described(folder)
    cases, problems = scan_converted(folder) if is_there(folder / "dataset.json") else scan_quiz(folder, description)
    inspections = inspect_all(cases, processes=processes, description=description)
    return inspections, problems + [problem for found in inspections for problem in found.problems]


def described(folder: Path) -> DataDescription:
    """Of a converted dataset or of a folder in the quiz's layout."""
    file = folder / "dataset.json"
    return description_of_dataset(load_json(file, RawDatasetJson), file, values_alone=True) if file.is_file() else read_description(folder)


def scan_converted(folder: Path) -> tuple[list[Case], list[str]]:
    """Cases of an nnU-Net raw dataset, and what is wrong with its files and tables. Holdout cases are `validation`."""
    description = load_json(folder / "dataset.json", RawDatasetJson)
    problems: list[str] = []
    if description["file_ending"] != MASK_ENDING:
        problems.append(f"{folder / 'dataset.json'}: file_ending is {description['file_ending']!r}; only {MASK_ENDING} files are looked at here")
    if "dataset" in description:
        try:
            listed = get_filenames_of_train_images_and_targets(folder, description)
            problems += [f"{folder / 'dataset.json'}: {file} of case {case} does not exist; correct the entry"
                         for case, files in listed.items() for file in (*files["images"], files["label"]) if not Path(file).is_file()]
        except (InputError, OSError) as error:
            problems.append(in_one_message(error))
    images = {part: _cases(folder / f"images{part}", IMAGE_ENDING, problems) for part in ("Tr", "Ts")}
    masks = _cases(folder / "labelsTr", ".nii.gz", problems)
    problems += [f"{images['Tr'][name]}: no mask in labelsTr" for name in sorted(images["Tr"].keys() - masks.keys())]
    problems += [f"{masks[name]}: no image in imagesTr" for name in sorted(masks.keys() - images["Tr"].keys())]
    problems += [f"{images['Ts'][name]}: this id is in imagesTr too" for name in sorted(images["Ts"].keys() & images["Tr"].keys())]
    if description["numTraining"] != len(masks):
        problems.append(f"{folder / 'dataset.json'}: numTraining is {description['numTraining']}, labelsTr holds {len(masks)}")
    holdout = set(description.get("holdout", []))
    problems += [f"{folder / 'dataset.json'}: holdout case {name} is not in imagesTr; take it out of the list" for name in sorted(holdout - images["Tr"].keys())]
    subtypes = {}
    if "classification" in description:
        subtypes, wrong = _read_subtypes(folder / description["classification"]["labels"], description["classification"], set(masks))
        problems += wrong
    problems += _check_splits(folder / "splits_final.json", set(masks), holdout)
    both = sorted(images["Tr"].keys() & masks.keys())
    cases = [Case(name, "validation" if name in holdout else "train", images["Tr"][name], masks[name], subtypes.get(name))
             for name in both]
    cases.sort(key=lambda case: case.split)
    return cases + [Case(name, "test", image) for name, image in sorted(images["Ts"].items())], problems


def _cases(folder: Path, ending: str, problems: list[str]) -> dict[str, Path]:
    """{case: file}; what looks like an image and cannot be taken, one level down too, is added to `problems`."""
    if not folder.is_dir():
        return {}
    found = scan_images(folder, ending)
    problems += [f"{folder}: {problem}" for problem in found.problems]
    return {file.name.removesuffix(ending): file for file in found.files}


def _read_subtypes(path: Path, task: dict, names: set[str]) -> tuple[dict[str, str], list[str]]:
    """{case: subtype} and what is wrong: every case must have exactly one known subtype."""
    try:
        pairs = [(row["case"], row[task["name"]]) for row in read_csv(path, ["case", task["name"]], only_these=True).rows]
    except (InputError, OSError) as error:
        return {}, [in_one_message(error)]
    classes = list(map(str, task["classes"]))
    counts = Counter(case for case, _ in pairs)
    problems = [f"{path}: {case} is listed {n} times; keep one row" for case, n in counts.items() if n > 1]
    problems += [f"{path}: {case}: {subtype!r} is none of {classes}; correct the row, or the classes in dataset.json" for case, subtype in pairs if subtype not in classes]
    problems += [f"{path}: {case} is missing; add its row" for case in sorted(names - counts.keys())]
    problems += [f"{path}: {case} is no training or validation case; remove the row" for case in sorted(counts.keys() - names)]
    return dict(pairs), problems


def _check_splits(path: Path, names: set[str], holdout: set[str]) -> list[str]:
    """Folds hold known cases and train on none that they validate on; holdout cases appear as fold 0's validation only.

    A line per problem, with all the folds that have it.
    """
    if not is_there(path):
        return []
    folds_with: dict[str, list[int]] = {}
    for number, fold in enumerate(load_json(path, Splits)):
        train, val = set(fold["train"]), set(fold["val"])
        problems = split_problems(fold["train"], fold["val"], None, holdout, MASK_ENDING)
        problems += [f"{case} is not in labelsTr; correct the name" for case in sorted((train | val) - names) if not case.endswith(MASK_ENDING)]
        if number > 0:
            problems += [f"val: {case} is held out by dataset.json; take it out" for case in sorted(val & holdout)]
        elif holdout:
            problems += [f"holdout case {case} is not validated on" for case in sorted(holdout - val)]
        for problem in problems:
            folds_with.setdefault(problem, []).append(number)
    return [f"{path}: fold{'s' * (len(folds) > 1)} {', '.join(map(str, folds))}: {problem}" for problem, folds in folds_with.items()]


@script
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("folder", type=Path, help="quiz folder, or nnUNet_raw/DatasetXXX_Name")
    parser.add_argument("-np", "--processes", type=whole_number(0), help="default: one per core, at most 8")
    args = parser.parse_args(arguments)
    inspections, problems = check_dataset(args.folder, args.processes)
    if inspections:
        print(summary_table(inspections, described(args.folder)))
        print("".join(f"warning: {line}\n" for line in case_warnings(inspections, described(args.folder))), end="", file=sys.stderr)
    if problems:
        sys.exit(f"error: {args.folder}: {problem_list(problems)}")
    print(f"{args.folder}: nothing wrong with {len(inspections)} cases")


if __name__ == "__main__":
    main()
