"""Bring the folds of a cross-validation together, and average subtype tables.

    python experiments/out_of_fold.py gather --model MODEL --folds 1 2 3 4 5 --splits RAW/splits_final.json \
        --labels RAW/labelsTr --out OUT --reference REFERENCE
    python experiments/out_of_fold.py average TABLES_A TABLES_B --out OUT

gather: copies MODEL/fold_K/validation/*.nii.gz into OUT, joins the folds' subtype tables there, and copies the true masks
of the same cases into REFERENCE, so that OUT can be scored. average: mean of the probabilities in two folders' tables.
"""

import argparse
import csv
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nnunetv2.utilities.commands import script, whole_number
from nnunetv2.utilities.csv_cells import guarded
from nnunetv2.utilities.csv_files import given_twice, read_csv, refuse
from nnunetv2.utilities.errors import InputError, name_some
from nnunetv2.utilities.file_shapes import Splits
from nnunetv2.utilities.files import atomic_write, load_json
from nnunetv2.utilities.safe_names import plain_names

PROBABILITIES, RESULTS = "subtype_probabilities.csv", "subtype_results.csv"
Table = dict[str, list[float]]  # mask file name -> probability of each class


def gather(folds: dict[int, Path], splits: list[dict], labels: Path, out: Path, reference: Path) -> int:
    """Join the validation folders of `folds` in `out`; returns the number of cases. Without subtype tables: masks alone.

    Raises ValueError naming every validation case of a fold that has no mask, or no row where others have one.
    """
    masks, table, classes, problems = {}, {}, [], []
    with_tables = any((folder / PROBABILITIES).is_file() for folder in folds.values())
    for fold, folder in folds.items():
        rows: Table = {}
        if (folder / PROBABILITIES).is_file():
            classes, rows = read_table(folder / PROBABILITIES)
        for case in plain_names(splits[fold]["val"], "case", f"splits_final.json, fold {fold}"):
            name = f"{case}.nii.gz"
            masks[name] = folder / name
            if not masks[name].is_file():
                problems.append(f"fold {fold}: {masks[name]} does not exist")
            if name in rows:
                table[name] = rows[name]
            elif with_tables:
                problems.append(f"fold {fold}: no row for {name} in {folder / PROBABILITIES}")
    if problems:
        raise ValueError("\n  ".join(["The folds are not complete; train and validate them first:", *problems]))
    for folder in (out, reference):
        shutil.rmtree(folder, ignore_errors=True)  # masks of another set of folds must not be scored
        folder.mkdir(parents=True)
    for name, mask in masks.items():
        shutil.copy2(mask, out / name)
        shutil.copy2(labels / name, reference / name)
    if with_tables:
        write_tables(out, classes, table)
    return len(masks)


def average(a: Path, b: Path, out: Path) -> None:
    """Write the mean of two probability tables; ValueError unless both list the same cases and classes."""
    (classes, first), (other_classes, second) = read_table(a / PROBABILITIES), read_table(b / PROBABILITIES)
    if classes != other_classes or first.keys() != second.keys():
        raise InputError(f"{a / PROBABILITIES} and {b / PROBABILITIES} must list the same cases and classes; only in one: "
                         f"{name_some(sorted(first.keys() ^ second.keys()))}, classes {classes} and {other_classes}")
    write_tables(out, classes, {name: [(p + q) / 2 for p, q in zip(first[name], second[name])] for name in first})


def read_table(path: Path) -> tuple[list[str], Table]:
    """Class names and {mask file name: probabilities} of a table with columns Names, p_CLASS, ..."""
    content = read_csv(path, ["Names"])
    columns = [column for column in content.columns if column != "Names"]
    problems, table = given_twice([row["Names"] for row in content.rows], content.lines), {}
    for row, line in zip(content.rows, content.lines):
        try:
            table[row["Names"]] = [float(row[column]) for column in columns]
            usable = all(0 <= value <= 1 for value in table[row["Names"]])
        except ValueError:
            usable = False
        if not usable:
            problems.append(f"line {line}: {[row[column] for column in columns]} must be probabilities, from 0 to 1")
    problems += [f"column {column!r} must be called p_CLASS" for column in columns if not column.startswith("p_")]
    problems += ["it must have columns p_CLASS"] if not columns else []
    refuse(path, problems)
    return [column.removeprefix("p_") for column in columns], table


def write_tables(folder: Path, classes: list[str], table: Table) -> None:
    """Both subtype tables, as prediction writes them."""
    probabilities = [["Names", *(f"p_{name}" for name in classes)]]
    probabilities += [[name, *(f"{p:.6f}" for p in row)] for name, row in sorted(table.items())]
    results = [["Names", "Subtype"]] + [[name, classes[row.index(max(row))]] for name, row in sorted(table.items())]
    for name, rows in ((PROBABILITIES, probabilities), (RESULTS, results)):
        with atomic_write(folder / name) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([guarded(cell) for cell in row] for row in rows)


@script
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    gathering = commands.add_parser("gather", help="join the validation predictions of several folds")
    gathering.add_argument("--model", type=Path, required=True, help="folder that holds fold_K")
    gathering.add_argument("--folds", type=whole_number(0), nargs="+", default=[1, 2, 3, 4, 5])
    gathering.add_argument("--splits", type=Path, required=True, help="splits_final.json")
    gathering.add_argument("--labels", type=Path, required=True, help="folder of the true masks")
    gathering.add_argument("--out", type=Path, required=True, help="folder for masks and tables; what is there is deleted")
    gathering.add_argument("--reference", type=Path, required=True, help="folder for the true masks; what is there is deleted")
    averaging = commands.add_parser("average", help="mean of two folders' probabilities")
    averaging.add_argument("a", type=Path)
    averaging.add_argument("b", type=Path)
    averaging.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    if args.command == "gather":
        n = gather({fold: args.model / f"fold_{fold}" / "validation" for fold in args.folds}, load_json(args.splits, Splits), args.labels,
                   args.out, args.reference)
        print(f"{n} cases out of fold in {args.out}")
    else:
        average(args.a, args.b, args.out)


if __name__ == "__main__":
    main()
