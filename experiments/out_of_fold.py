"""Bring the folds of a cross-validation together, and average subtype tables.

    python -m experiments.out_of_fold gather --model MODEL --folds 1 2 3 4 5 --splits RAW/splits_final.json \
        --labels RAW/labelsTr --out OUT --reference REFERENCE
    python -m experiments.out_of_fold average TABLES_A TABLES_B --out OUT

gather: copies MODEL/fold_K/validation/*.nii.gz into OUT, joins the folds' subtype tables there, and copies the true masks
of the same cases into REFERENCE, so that OUT can be scored. average: mean of the probabilities in two folders' tables.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

from nnunetv2.utilities.classification import LESION_FOUND, lesion_found_in, lesion_mark
from nnunetv2.utilities.commands import Parser, script, whole_number
from nnunetv2.utilities.csv_files import given_twice, read_csv, refuse, write_rows
from nnunetv2.utilities.errors import InputError, name_some
from nnunetv2.utilities.file_shapes import Splits
from nnunetv2.utilities.files import load_json
from nnunetv2.utilities.own_folders import rewritten
from nnunetv2.utilities.safe_names import plain_name, plain_names

TASK = "subtype"  # the quiz's; others with --task
PROBABILITIES = f"{TASK}_probabilities.csv"
Table = dict[str, list[float]]  # mask file name -> probability of each class


def tables_of(folder: Path, task: str) -> tuple[Path, Path]:
    """Files of the probabilities and of the classes, as prediction names them."""
    return folder / f"{task}_probabilities.csv", folder / f"{task}_results.csv"


def gather(folds: dict[int, Path], splits: list[dict], labels: Path, out: Path, reference: Path, task: str = TASK) -> int:
    """Join the validation folders of `folds` in `out`; returns the number of cases. Without tables of classes: masks alone.

    Raises ValueError naming every validation case of a fold that has no mask, or no row where others have one, and every file in
    `out` and `reference` that no former run wrote.
    """
    masks, table, found, classes, problems = {}, {}, {}, [], []
    with_tables = any(tables_of(folder, task)[0].is_file() for folder in folds.values())
    for fold, folder in folds.items():
        rows: Table = {}
        file = tables_of(folder, task)[0]
        if file.is_file():
            classes, rows = read_table(file)
            found |= lesions_found(file)
        for case in plain_names(splits[fold]["val"], "case", f"splits_final.json, fold {fold}"):
            name = f"{case}.nii.gz"
            masks[name] = folder / name
            if not masks[name].is_file():
                problems.append(f"fold {fold}: {masks[name]} does not exist")
            if name in rows:
                table[name] = rows[name]
            elif with_tables:
                problems.append(f"fold {fold}: no row for {name} in {file}")
    if problems:
        raise ValueError("\n  ".join(["The folds are not complete; train and validate them first:", *problems]))
    tables = {path.name: None for path in tables_of(out, task)} if with_tables else {}
    with rewritten({out: masks | tables, reference: {name: labels / name for name in masks}}, [*folds.values(), labels]):  # masks of another set of folds must not be scored
        for name, mask in masks.items():
            shutil.copy2(mask, out / name)
            shutil.copy2(labels / name, reference / name)
        if with_tables:
            write_tables(out, classes, table, task, found)
    return len(masks)


def average(a: Path, b: Path, out: Path, task: str = TASK) -> None:
    """Write the mean of two probability tables; ValueError unless both list the same cases and classes."""
    (classes, first), (other_classes, second) = (read_table(tables_of(folder, task)[0]) for folder in (a, b))
    if classes != other_classes or first.keys() != second.keys():
        raise InputError(f"{tables_of(a, task)[0]} and {tables_of(b, task)[0]} must list the same cases and classes; only in one: "
                         f"{name_some(sorted(first.keys() ^ second.keys()))}, classes {classes} and {other_classes}")
    looked = [lesions_found(tables_of(folder, task)[0]) for folder in (a, b)]
    found = {name: None if None in (marks := [of[name] for of in looked]) else any(marks) for name in first}
    write_tables(out, classes, {name: [(p + q) / 2 for p, q in zip(first[name], second[name])] for name in first}, task, found)


def read_table(path: Path) -> tuple[list[str], Table]:
    """Class names and {mask file name: probabilities} of a table with columns Names, p_CLASS, ..."""
    content = read_csv(path, ["Names"])
    columns = [column for column in content.columns if column not in ("Names", LESION_FOUND)]
    problems, table = given_twice([row["Names"] for row in content.rows], content.lines), {}
    for row, line in zip(content.rows, content.lines):
        try:
            table[row["Names"]] = [float(row[column]) for column in columns]
            usable = all(0 <= value <= 1 for value in table[row["Names"]])
        except ValueError:
            usable = False
        if not usable:
            problems.append(f"line {line}: {[row[column] for column in columns]} must be probabilities, from 0 to 1")
        problems += [f"line {line}: {problem}"] if (problem := lesion_found_in(row)[1]) else []
    problems += [f"column {column!r} must be called p_CLASS" for column in columns if not column.startswith("p_")]
    problems += ["it must have columns p_CLASS"] if not columns else []
    refuse(path, problems)
    return [column.removeprefix("p_") for column in columns], table


def lesions_found(path: Path) -> dict[str, bool | None]:
    """{mask file name: whether a lesion was found} of the same table; None where it does not say."""
    return {row["Names"]: lesion_found_in(row)[0] for row in read_csv(path, ["Names"]).rows}


def write_tables(folder: Path, classes: list[str], table: Table, task: str = TASK, found: Mapping[str, bool | None] | None = None) -> None:
    """Both tables of classes, as prediction writes them; found: as `lesions_found` gives it."""
    probabilities = [["Names", *(f"p_{name}" for name in classes), LESION_FOUND]]
    probabilities += [[name, *(f"{p:.6f}" for p in row), lesion_mark((found or {}).get(name))] for name, row in sorted(table.items())]
    results = [["Names", task.capitalize()]] + [[name, classes[row.index(max(row))]] for name, row in sorted(table.items())]
    for path, rows in zip(tables_of(folder, task), (probabilities, results)):
        write_rows(path, rows)


@script
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    gathering = commands.add_parser("gather", help="join the validation predictions of several folds")
    gathering.add_argument("--model", type=Path, required=True, help="folder that holds fold_K")
    gathering.add_argument("--folds", type=whole_number(0), nargs="+", default=[1, 2, 3, 4, 5])
    gathering.add_argument("--splits", type=Path, required=True, help="splits_final.json")
    gathering.add_argument("--labels", type=Path, required=True, help="folder of the true masks")
    gathering.add_argument("--out", type=Path, required=True, help="folder for masks and tables; what a former run wrote there is deleted")
    gathering.add_argument("--reference", type=Path, required=True, help="folder for the true masks; what a former run wrote there is deleted")
    averaging = commands.add_parser("average", help="mean of two folders' probabilities")
    averaging.add_argument("a", type=Path)
    averaging.add_argument("b", type=Path)
    averaging.add_argument("--out", type=Path, required=True)
    for command in (gathering, averaging):
        command.add_argument("--task", default=TASK, help=f"class task that the tables are named after (default {TASK})")
    args = parser.parse_args(arguments)
    if args.command == "gather":
        n = gather({fold: args.model / f"fold_{fold}" / "validation" for fold in args.folds}, load_json(args.splits, Splits), args.labels,
                   args.out, args.reference, plain_name(args.task, "task", "--task"))
        print(f"{n} cases out of fold in {args.out}")
    else:
        average(args.a, args.b, args.out, plain_name(args.task, "task", "--task"))


if __name__ == "__main__":
    main()
