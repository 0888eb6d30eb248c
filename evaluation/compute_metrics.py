"""Score predicted masks and subtypes against the truth.

    python evaluation/compute_metrics.py --pred results/fold0/predictions/validation --ref data/validation \
        --subtypes results/fold0/predictions/validation/subtype_results.csv --truth subtypes.csv --out results/fold0

    python evaluation/compute_metrics.py --pred PREDICTIONS --ref RAW/labelsTr --dataset RAW/dataset.json --out OUT     # other data

Writes metrics.json and per_case.csv into --out and prints a table. Masks pair up by file name; sub-folders of --ref are
searched. Probabilities are read from TASK_probabilities.csv beside --subtypes if it is there. Labels, regions, class task and names come from
--dataset, from its data_description or else its own labels and classes; without --dataset they are the quiz's. Missing cases, grids that
differ, labels out of range and broken tables are all listed, nothing is written, and the exit status is 1.
"""

import argparse
import os
import shlex
import sys
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evaluation.case_pairs import find_pairs, is_synthetic, read_pair, validation_cases
from evaluation.files import write_csv, write_json
from evaluation.segmentation_metrics import TOLERANCES_MM
from evaluation.subtype_tables import read_predictions, read_probabilities, read_truth
from evaluation.summary import case_row, summarise_segmentation, summarise_subtype
from evaluation.surface import SURFACES
from evaluation.tables import metrics_table
from nnunetv2.utilities.cluster import add_scheduler_flag, n_workers, workers_of
from nnunetv2.utilities.commands import Parser, script, whole_number
from nnunetv2.utilities.data_description import THE_QUIZ, DataDescription, carried, description_of_dataset
from nnunetv2.utilities.errors import CasesFailed, InputError, name_some
from nnunetv2.utilities.file_shapes import DatasetJson
from nnunetv2.utilities.files import is_there, load_json
from nnunetv2.utilities.folder_lock import is_in_use
from nnunetv2.utilities.manifest import file_hash, origin, value_hash
from nnunetv2.utilities.parallel import in_processes
from nnunetv2.utilities.prediction_manifest import trained_on

REFERENCE_HASH = "reference_hash"  # of a case's row, until all rows are there


@script
def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    args = _parse(arguments)
    try:
        dataset = load_json(args.dataset, DatasetJson) if args.dataset else {}
        description = description_of_dataset(dataset, args.dataset) if args.dataset else THE_QUIZ
        if args.subtypes and description.task is None:
            raise ValueError(f"{args.dataset} declares no class task; leave --subtypes and --truth out")
        with workers_of(args.scheduler, args.jobs):
            metrics = compute(args, description)
    except (ValueError, CasesFailed) as error:
        raise InputError(f"nothing was scored:\n{error}") from error
    made_up = args.synthetic or bool(dataset.get("synthetic")) or is_synthetic(args.ref) or description.made_up
    metrics = {"synthetic": made_up, "command": shlex.join(["python", "evaluation/compute_metrics.py", *arguments]),
               "seed": args.seed, "bootstrap": args.bootstrap, **carried(description)} | metrics
    write_csv(metrics["cases"], args.out / "per_case.csv")
    write_json(metrics, args.out / "metrics.json")
    print(metrics_table(metrics))
    print(f"Written: {args.out / 'metrics.json'}, {args.out / 'per_case.csv'}")
    return 0


def compute(args: argparse.Namespace, description: DataDescription = THE_QUIZ) -> dict:
    """All of metrics.json that comes from the data; one ValueError lists every problem of the whole folder."""
    held_out = validation_cases(args.splits, args.fold) if args.splits else []
    references, predictions = find_pairs(args.ref, args.pred, held_out)
    cases = held_out if args.splits else sorted(references)
    problems = [f"{case}: no reference mask in {args.ref}" for case in cases if case not in references]
    missing = [case for case in cases if case not in predictions]
    if missing and not args.allow_missing:
        problems += [f"{case}: no prediction in {args.pred} (--allow-missing scores it as empty)" for case in missing]
    if not args.allow_training_cases:
        problems += [f"{case}: the model that predicted it was trained on it (--allow-training-cases scores it all the same)"
                     for case in _training_cases(predictions, cases)]
    subtypes = {}
    if args.subtypes:
        try:
            subtypes = _read_subtypes(args, cases, description)
        except ValueError as error:
            problems.append(str(error))
    jobs = {case: (references[case], predictions.get(case)) for case in cases if case in references}
    rows, unreadable = _score(jobs, args.surface, args.jobs, description)
    problems += unreadable
    if problems:
        raise ValueError("\n".join(problems))

    if is_in_use(args.pred):
        print(f"warning: a run is writing masks into {args.pred}; scores may mix its masks with those of an earlier one. Score again when it has "
              "ended.", file=sys.stderr)
    if itself := [case for case in cases if case in predictions and predictions[case].samefile(references[case])]:
        print(f"warning: {len(itself)} prediction(s) are their reference itself, or a link to it, and score perfectly for that: {name_some(itself)}", file=sys.stderr)
    if unscored := [] if args.splits else sorted(predictions.keys() - references.keys()):
        print(f"warning: {len(unscored)} prediction(s) have no reference in {args.ref} and are not scored: {name_some(unscored)}", file=sys.stderr)
    truth = {row["case"]: row.pop(REFERENCE_HASH) for row in rows}  # of the voxels: a copy that was packed or stored otherwise is the same truth
    masks = {case: file_hash(predictions[case]) for case in cases if case in predictions}
    metrics = {"provenance": origin() | {"predictions": str(args.pred), "masks": value_hash(masks), "references": truth},
               "n_cases": len(rows), "missing_predictions": missing, "definitions": _definitions(args.surface)}
    metrics |= summarise_segmentation(rows, args.bootstrap, args.seed, description)
    if subtypes:
        named = {} if description.is_quiz else {"task": description.task}
        metrics["subtype"] = named | summarise_subtype(subtypes["true"], subtypes["predicted"], subtypes["probabilities"],
                                                       subtypes["classes"], args.bootstrap, args.seed)
        rows = [row | _subtype_columns(subtypes, i) for i, row in enumerate(rows)]
    return metrics | {"cases": rows}


def _training_cases(predictions: dict[str, Path], cases: list[str]) -> list[str]:
    """Those of `cases` whose mask was made by what was trained on them, as the manifests beside the masks say."""
    folders = {predictions[case].parent for case in cases if case in predictions}
    return sorted(case for folder in folders for case in trained_on(folder, [case for case in cases if case in predictions and predictions[case].parent == folder]))


def _score(jobs: dict[str, tuple[Path, Path | None]], surface: str, processes: int, description: DataDescription) -> tuple[list[dict], list[str]]:
    """Rows of all cases in the order of `jobs`, and the problems of those that cannot be scored."""
    score = partial(_score_case, surface=surface, description=description)
    if n_workers():  # they have folders of their own
        jobs = {case: (reference.absolute(), prediction and prediction.absolute()) for case, (reference, prediction) in jobs.items()}
    if processes > 1 or n_workers():
        results = list(in_processes(score, {case: (case, *paths) for case, paths in jobs.items()}, processes, "Scoring").values())
    else:
        results = [score(case, *paths) for case, paths in tqdm(jobs.items(), desc="Scoring", unit="case", disable=None)]
    return [result for result in results if isinstance(result, dict)], [result for result in results if isinstance(result, str)]


def _score_case(case: str, reference: Path, prediction: Path | None, surface: str, description: DataDescription) -> dict | str:
    """The case's row, or what is wrong with its files: one bad case must not hide those after it."""
    try:
        masks = read_pair(reference, prediction, description.label_values)
        return case_row(case, *masks, surface, description) | {REFERENCE_HASH: masks[0].digest}
    except ValueError as error:
        return str(error)


def _read_subtypes(args: argparse.Namespace, cases: list[str], description: DataDescription = THE_QUIZ) -> dict:
    """True and predicted class indices (n,) and probabilities (n, K) or None, in the order of `cases`."""
    task, words = description.task or "subtype", description.task_words
    truth = read_truth(args.truth, task)
    classes = args.classes or (sorted(set(truth.values())) if description.is_quiz else list(description.classes))
    table = args.subtypes.with_name(f"{task}_probabilities.csv")
    source = "--classes" if args.classes else args.truth if description.is_quiz else args.dataset
    if len(set(classes)) < max(2, len(classes)):
        raise InputError(f"{source}: the classes {', '.join(classes)} are not two or more different ones, which scores of a class task need; name all with --classes")
    try:
        predicted = read_predictions(args.subtypes, classes, task)
        probabilities = read_probabilities(table, classes) if is_there(table) else None
    except InputError as error:
        raise InputError(f"{error}\nThe classes {', '.join(classes)} are those of {source}; correct the one that is wrong.") from error
    problems = [f"{case}: no {words} in {args.truth}; add its row" for case in cases if case not in truth]
    problems += [f"{case}: true {words} {truth[case]!r} is none of {classes}" for case in cases if truth.get(case, classes[0]) not in classes]
    if not args.allow_missing:
        problems += [f"{case}: no {description.task_words} in {args.subtypes}; predict the case, or give --allow-missing" for case in cases if case not in predicted]
        problems += [f"{case}: no probabilities in {table}; predict the case, or give --allow-missing" for case in cases if probabilities is not None and case not in probabilities]
    if problems:
        raise ValueError("\n".join(problems))
    uniform = np.full(len(classes), 1 / len(classes))  # what is known about a case that was not predicted
    return {
        "classes": classes, "true": np.array([classes.index(truth[case]) for case in cases]),
        "predicted": np.array([classes.index(predicted[case]) if case in predicted else -1 for case in cases]),
        "probabilities": None if probabilities is None else np.stack([probabilities.get(case, uniform) for case in cases]),
    }


def _subtype_columns(subtypes: dict, i: int) -> dict:
    classes, predicted = subtypes["classes"], subtypes["predicted"][i]
    columns = {"subtype_true": classes[subtypes["true"][i]], "subtype_predicted": classes[predicted] if predicted >= 0 else ""}
    if subtypes["probabilities"] is not None:
        columns |= {f"p_{name}": float(value) for name, value in zip(classes, subtypes["probabilities"][i])}
    return columns


def _definitions(surface: str) -> dict[str, str]:
    return {
        "surface": surface,
        "nsd": f"normalised surface distance, tolerances {' and '.join(f'{t:g}' for t in TOLERANCES_MM)} mm: a choice, as the variation "
               "between raters is unknown",
        "hd95": "larger of the two directed 95th percentiles, weighted by surface area" if surface == "elements"
                else "larger of the two directed 95th percentiles over boundary voxels",
        "masd": "mean of the two directed mean surface distances",
        "empty": "both masks empty: left out; one empty: DSC, IoU and NSD 0, HD95 and MASD not averaged but counted",
        "interval": "95 % percentile bootstrap over cases, within true classes for subtype metrics; Dirichlet posterior of each true class for what the "
                    "confusion matrix decides; Newcombe (2006, method 5) for AUROC and Wilson for average precision, their means over classes "
                    "with the mean of the classes' limits; Wilson for the detection rate",
        "brier": "summed over classes", "ece": "class-wise, bins of equal width",
    }


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--pred", type=Path, required=True, help="folder of predicted masks, case.nii.gz (or .nii, .nrrd, .mha, .gipl)")
    parser.add_argument("--ref", type=Path, required=True, help="folder of reference masks with the same names")
    parser.add_argument("--dataset", type=Path, help="dataset.json of other data than the quiz's: labels, regions, class task and names")
    parser.add_argument("--splits", type=Path, help="splits_final.json: score the validation cases of --fold only")
    parser.add_argument("--fold", type=whole_number(0), default=0, help="fold of --splits (default 0)")
    parser.add_argument("--subtypes", type=Path, help="predicted classes, columns Names,Subtype (or the task's name)")
    parser.add_argument("--truth", type=Path, help="true classes, columns case,subtype (or the task's name)")
    parser.add_argument("--classes", nargs="+", help="all classes in order (default: those in --truth)")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder for metrics.json and per_case.csv (default: here)")
    parser.add_argument("--bootstrap", type=whole_number(1), default=2000, help="resamples (default 2000)")
    parser.add_argument("--seed", type=whole_number(0, 2**32 - 1), default=0)
    parser.add_argument("--jobs", type=whole_number(1), default=os.cpu_count() or 1, help="processes (default: one per core)")
    add_scheduler_flag(parser)
    parser.add_argument("--surface", choices=SURFACES, default="elements", help="definition of a surface (see evaluation/surface.py)")
    parser.add_argument("--allow-missing", action="store_true", help="score missing predictions as empty masks")
    parser.add_argument("--allow-training-cases", action="store_true", help="score cases that the model was trained on")
    parser.add_argument("--synthetic", action="store_true", help="the data is made up: say so everywhere")
    args = parser.parse_args(arguments)
    if bool(args.subtypes) != bool(args.truth):
        parser.error("--subtypes and --truth go together")
    if args.bootstrap < 1 or args.jobs < 1:
        parser.error("--bootstrap and --jobs must be at least 1")
    return args


if __name__ == "__main__":
    sys.exit(main())
