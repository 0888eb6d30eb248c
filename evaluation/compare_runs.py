"""Compare two scored runs case by case: B minus A with 95 % interval, permutation test and a verdict per metric.

    python evaluation/compare_runs.py results/exact results/fast --out results/exact_vs_fast.json

A and B are folders that compute_metrics.py wrote; they must hold the same cases and the same truth (its hashes are in
metrics.json; files without them are compared by the true volumes). The margins are the
differences worth knowing about: below them two runs count as equal, and they set how many cases would be enough. A distance
is undefined where a run misses a structure; such cases get no verdict by distance, and the misses are compared themselves.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evaluation.comparison import Subtypes, compare_counts, compare_means, compare_subtypes
from evaluation.files import write_json
from evaluation.result_shapes import Metrics
from evaluation.segmentation_metrics import SEGMENTATION_METRICS
from evaluation.tables import NAMES, heading, number
from nnunetv2.utilities.data_description import carried, description_of
from nnunetv2.utilities.commands import Parser, script, whole_number
from nnunetv2.utilities.files import load_json

MARGINS = {"dsc": 0.01, "iou": 0.01, "nsd_1mm": 0.02, "nsd_2mm": 0.02, "hd95_mm": 1.0, "masd_mm": 0.2, "missed": 0.02, "false_alarm": 0.02, "found": 0.02, "subtype": 0.05}


@script
def main(arguments: list[str] | None = None) -> int:
    args = _parse(arguments)
    comparison = compare(load_json(args.a / "metrics.json", Metrics), load_json(args.b / "metrics.json", Metrics), args.resamples, args.seed)
    comparison = {"a": str(args.a), "b": str(args.b), "seed": args.seed, "resamples": args.resamples} | comparison
    if args.out:
        write_json(comparison, args.out)
    print(comparison_table(comparison))
    return 0


def compare(a: dict, b: dict, resamples: int, seed: int) -> dict:
    """Rows {block: {metric: row}} of two contents of metrics.json; ValueError if they do not describe the same cases."""
    rows_a, rows_b = ({row["case"]: row for row in run["cases"]} for run in (a, b))
    problems = [f"{case}: only in {'A' if case in rows_a else 'B'}" for case in sorted(rows_a.keys() ^ rows_b.keys())]
    description = description_of(a)
    alike = description.content == description_of(b).content
    problems += [] if alike else ["they are of different data: their descriptions differ"]
    problems += [f"{case}: true {description.task_words} {rows_a[case].get('subtype_true')} in A, {rows_b[case].get('subtype_true')} in B"
                 for case in sorted(rows_a.keys() & rows_b.keys())
                 if rows_a[case].get("subtype_true") != rows_b[case].get("subtype_true")]
    problems += _other_truth(a, b, list(description.structures)) if alike else []
    if a["definitions"]["surface"] != b["definitions"]["surface"]:
        problems.append(f"A has surfaces of {a['definitions']['surface']}, B of {b['definitions']['surface']}: score both alike")
    if problems:
        raise ValueError("\n".join(["The runs cannot be compared:", *problems]))
    cases = sorted(rows_a)

    def column(rows: dict[str, dict], key: str) -> np.ndarray:
        return np.array([rows[case][key] for case in cases], float)  # null becomes NaN

    result: dict = {"synthetic": a["synthetic"] or b["synthetic"], "n_cases": len(cases), **carried(description)}
    for structure in description.structures:
        result[structure] = {name: compare_means(column(rows_a, f"{structure}_{name}"), column(rows_b, f"{structure}_{name}"),
                                                 MARGINS[name], resamples, seed) for name in SEGMENTATION_METRICS}
        for outcome in ("missed", "false_alarm"):
            ours, theirs = (np.array([rows[case][f"{structure}_outcome"] == outcome for case in cases], float) for rows in (rows_a, rows_b))
            result[structure][outcome] = compare_counts(ours, theirs, MARGINS[outcome], resamples, seed)
    if description.lesion:
        detected = [column(rows, f"{description.lesion.key}_detected") for rows in (rows_a, rows_b)]
        result[description.lesion.key]["found"] = compare_counts(*detected, MARGINS["found"], resamples, seed)
    if "subtype" in a and "subtype" in b:
        classes = a["subtype"]["classes"]
        if b["subtype"]["classes"] != classes:
            raise ValueError(f"A has the classes {classes}, B {b['subtype']['classes']}")
        true = np.array([classes.index(rows_a[case]["subtype_true"]) for case in cases])
        result["subtype"] = compare_subtypes(true, _subtypes(rows_a, cases, classes), _subtypes(rows_b, cases, classes),
                                             len(classes), MARGINS["subtype"], resamples, seed)
    return result


def _other_truth(a: dict, b: dict, structures: list[str]) -> list[str]:
    """A line for each case that the two runs have in common and whose true mask differs, by its hash or by the volumes in mm."""
    hashes = [run.get("provenance", {}).get("references", {}) for run in (a, b)]
    rows_a, rows_b = ({row["case"]: row for row in run["cases"]} for run in (a, b))
    problems = []
    for case in sorted(rows_a.keys() & rows_b.keys()):
        volumes = [np.array([rows[case].get(f"{structure}_reference_ml") for structure in structures], float) for rows in (rows_a, rows_b)]
        known = [of.get(case) for of in hashes]
        if (None not in known and known[0] != known[1]) or not np.allclose(*volumes, rtol=1e-4, atol=1e-9, equal_nan=True):
            told = (", ".join(f"{value:.6g}" for value in of) for of in volumes)
            problems.append(f"{case}: its true mask differs, {' ml in A, '.join(told)} ml in B; score both against the same masks")
    return problems


def comparison_table(comparison: dict) -> str:
    description = description_of(comparison)
    banner = description.banner(comparison["synthetic"])
    lines = [banner] if banner else []
    lines += [f"A = {comparison['a']}", f"B = {comparison['b']}",
              f"{'':20}{'A':>8}{'B':>8}{'B - A':>9}   {'95 % interval':<18}{'p':>7}{'n':>5}  verdict"]
    titles = {key: structure.title for key, structure in description.structures.items()} | {"subtype": heading(description.task_words)}
    for block, title in titles.items():
        if block in comparison:
            lines.append(title)
            lines += [_line(NAMES[name].split(" (")[0], row) for name, row in comparison[block].items()]
    return "\n".join(lines)


def _line(name: str, row: dict) -> str:
    interval = f"[{number(row['ci_low'])}, {number(row['ci_high'])}]"
    counts = f" ({row['count_a']} against {row['count_b']})" if "count_a" in row else ""
    return (f"  {name:18}{number(row['a']):>8}{number(row['b']):>8}{number(row['difference']):>9}   {interval:<18}"
            f"{number(row['p'], 4):>7}{row['n']:>5}  {row['verdict']}{counts}")


def _subtypes(rows: dict[str, dict], cases: list[str], classes: list[str]) -> Subtypes:
    predicted = np.array([classes.index(rows[case]["subtype_predicted"]) if rows[case]["subtype_predicted"] else -1 for case in cases])
    if f"p_{classes[0]}" not in rows[cases[0]]:
        return Subtypes(predicted, None)
    return Subtypes(predicted, np.array([[rows[case][f"p_{name}"] for name in classes] for case in cases]))


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("a", type=Path, metavar="A", help="folder with the first run's metrics.json")
    parser.add_argument("b", type=Path, metavar="B", help="folder with the second run's metrics.json")
    parser.add_argument("--out", type=Path, help="write the comparison as JSON")
    parser.add_argument("--resamples", type=whole_number(1), default=2000, help="of the bootstrap and of the permutation test (default 2000)")
    parser.add_argument("--seed", type=whole_number(0, 2**32 - 1), default=0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
