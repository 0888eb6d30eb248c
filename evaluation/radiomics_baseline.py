"""The baseline to beat: subtype from hand-made features of the lesion, with a linear model of scikit-learn.

    python evaluation/radiomics_baseline.py --images RAW/imagesTr --masks results/cv/oof --truth RAW/subtypes.csv \
        --splits RAW/splits_final.json --folds 1 2 3 4 5 --out results/cv/radiomics
    ... --masks RAW/labelsTr --features volume_ml mean                    how far size and mean HU alone go, in true masks
    ... --predict_images RAW/imagesTs --predict_masks results/cv/test     also predicts these, fitted on all training cases

Each fold is fitted on its training cases and predicts its validation cases, so every row is out of fold. --masks holds
predicted masks (the honest comparison with a network) or true ones (an upper bound); a case without a mask there is an error.
Writes OUT/subtype_probabilities.csv and OUT/subtype_results.csv, columns as the network's, and OUT/test/ likewise.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evaluation.case_pairs import find_masks, read_mask
from evaluation.files import write_csv
from evaluation.image_files import USUAL, case_of, first_channels
from evaluation.lesion_features import NAMES, lesion_features
from evaluation.subtype_tables import read_truth
from nnunetv2.imageio.geometry import grid_difference
from nnunetv2.imageio.simpleitk_reader_writer import read_volume
from nnunetv2.utilities.commands import Parser, script, whole_number
from nnunetv2.utilities.data_description import THE_QUIZ, DataDescription, description_of_dataset
from nnunetv2.utilities.errors import InputError, list_some, name_some
from nnunetv2.utilities.file_shapes import DatasetJson, Splits
from nnunetv2.utilities.files import load_json
from nnunetv2.utilities.parallel import in_processes
from nnunetv2.utilities.splits import split_problems

Features = dict[str, np.ndarray | None]  # None: no lesion in the mask


def make_model(smallest_class: int, seed: int = 0) -> Pipeline:
    """Standardised features, multinomial logistic regression, balanced classes, penalty by an inner cross-validation."""
    folds = StratifiedKFold(max(2, min(5, smallest_class)), shuffle=True, random_state=seed)
    return make_pipeline(StandardScaler(), LogisticRegressionCV(
        Cs=np.logspace(-3, 1, 9), l1_ratios=(0,), cv=folds, scoring="neg_log_loss", class_weight="balanced", max_iter=2000,
        use_legacy_attributes=False))


def fit_and_predict(features: Features, truth: dict[str, str], train: list[str], predict: list[str], classes: list[str],
                    seed: int = 0, others: Features | None = None) -> dict[str, np.ndarray]:
    """{case: (K,) probabilities} of `predict`, from a model fitted on `train`; cases without a lesion get the class shares.

    others: features of `predict`, which may have names of training cases; default: `features`. Labels are read for `train` alone.
    Raises ValueError when `train` has fewer than two lesions of some class.
    """
    usable = [case for case in train if features[case] is not None]
    labels = np.array([classes.index(truth[case]) for case in usable], dtype=int)
    counts = np.bincount(labels, minlength=len(classes))
    if counts.min() < 2:
        raise ValueError(f"subtypes {', '.join(classes)} have {counts.tolist()} training cases with a lesion; 2 of each are needed. "
                         "Correct the classes, or name others with --classes")
    model = make_model(int(counts.min()), seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # weak penalties on few cases need not converge to be rejected
        model.fit(np.stack([features[case] for case in usable]), labels)
    measured = {case: (features if others is None else others)[case] for case in predict}
    return {case: counts / counts.sum() if row is None else model.predict_proba(row[None])[0] for case, row in measured.items()}


def extract(images: Path, masks: Path, cases: list[str] | None, jobs: int, description: DataDescription = THE_QUIZ) -> Features:
    """Features of `cases` (None: of every mask in `masks`); one ValueError lists all files that are missing or do not match."""
    image_of = {case_of(path.name).removesuffix("_0000"): path for path in first_channels(images) if path.parent == images}
    found = find_masks(masks, [*image_of] if cases is None else cases)
    cases = sorted(found) if cases is None else cases
    pairs = {case: (image_of.get(case, images / f"{case}_0000{USUAL}"), found.get(case)) for case in cases}
    problems = [f"{case}: no mask in {masks}; add it" for case, (_, mask) in pairs.items() if mask is None]
    problems += [f"{image}: does not exist; check --images and links" for image, _ in pairs.values() if not image.is_file()]
    if problems:
        raise ValueError("\n".join(problems))
    features_of = partial(_case_features, lesion=(description.lesion or description.whole).labels, labels=description.label_values)
    if jobs > 1:
        rows = list(in_processes(features_of, pairs, jobs, "Features").values())
    else:
        rows = [features_of(*files) for files in tqdm(pairs.values(), desc="Features", unit="case", disable=None)]
    problems = [row for row in rows if isinstance(row, str)]
    if problems:
        raise ValueError("\n".join(problems))
    return dict(zip(pairs, rows))


def select(features: Features, names: list[str]) -> Features:
    """The columns `names` of lesion_features.NAMES, in that order."""
    columns = [NAMES.index(name) for name in names]
    return {case: None if row is None else row[columns] for case, row in features.items()}


def _case_features(image_file: Path, mask_file: Path, lesion: Sequence[int] = THE_QUIZ.lesion.labels, labels: Sequence[int] = THE_QUIZ.label_values) -> np.ndarray | None | str:
    """Features, None without a lesion, or what is wrong with the files."""
    try:
        mask = read_mask(mask_file, labels)
        image, properties = read_volume(image_file)
    except (OSError, ValueError) as error:
        return str(error)
    difference = grid_difference(properties["sitk_stuff"], mask.geometry, image.shape, mask.labels.shape)
    if difference:
        return f"{mask_file} {difference} (its image {image_file})"
    return lesion_features(image, np.isin(mask.labels, lesion), mask.spacing)


def out_of_fold(features: Features, truth: dict[str, str], splits: list[dict], folds: list[int], classes: list[str],
                seed: int = 0) -> dict[str, np.ndarray]:
    """{case: (K,)} for the validation cases of `folds`, each predicted by the model of its own fold."""
    predicted: dict[str, np.ndarray] = {}
    for fold in folds:
        predicted |= fit_and_predict(features, truth, splits[fold]["train"], splits[fold]["val"], classes, seed)
    return predicted


def write_tables(probabilities: dict[str, np.ndarray], classes: list[str], out: Path, task: str = "subtype") -> None:
    """TASK_probabilities.csv and TASK_results.csv as the network's predictor writes them."""
    rows = sorted(probabilities.items())
    columns = [{"Names": f"{case}.nii.gz"} | {f"p_{name}": f"{value:.6f}" for name, value in zip(classes, p)} for case, p in rows]
    write_csv(columns, out / f"{task}_probabilities.csv")
    write_csv([{"Names": f"{case}.nii.gz", task.capitalize(): classes[int(np.argmax(p))]} for case, p in rows], out / f"{task}_results.csv")


def _description(dataset: Path) -> DataDescription:
    """Of a dataset.json; InputError where a description cannot say which labels decide the class."""
    content = load_json(dataset, DatasetJson)
    description = description_of_dataset(content, dataset, values_alone=True)
    measured = (description.lesion or description.whole).labels
    declared = content.get("classification", {}).get("lesion_labels", measured)
    if sorted(map(int, declared)) != sorted(measured):
        raise InputError(f"{dataset}: lesion_labels {declared} are not {list(measured)}, the labels that features are measured in. Name one label there, or all; "
                         "data_description may name the lesion (docs/your-data.md).")
    return description


@script
def main(arguments: list[str] | None = None) -> int:
    args = _parse(arguments)
    description = _description(args.dataset) if args.dataset else THE_QUIZ
    task = description.task or "subtype"
    truth, splits = read_truth(args.truth, task), load_json(args.splits, Splits)
    classes = args.classes or (sorted(set(truth.values())) if description.is_quiz else list(description.classes))
    unknown = [fold for fold in args.folds if fold not in range(len(splits))]
    if unknown:
        raise InputError(f"{args.splits} has folds 0 to {len(splits) - 1}, not {name_some(unknown)}. Choose some of them with --folds.")
    wrong = [f"fold {fold}: {problem}" for fold in args.folds for problem in split_problems(splits[fold]["train"], splits[fold]["val"], None, (), ".nii.gz")]
    if wrong:
        raise InputError(f"{args.splits}: {len(wrong)} problem(s), correct it:\n{list_some(wrong)}")
    train, held_out = ({case for fold in args.folds for case in splits[fold][part]} for part in ("train", "val"))
    cases = sorted(train | held_out)
    unlabelled = sorted(set(cases) - truth.keys())
    if unlabelled:
        raise InputError(f"{args.truth} has no class of {len(unlabelled)} cases that {args.splits} names; add their rows:\n{list_some(unlabelled)}")
    if wrong := [f"{case}: {truth[case]!r} is none of {', '.join(classes)}" for case in cases if truth[case] not in classes]:
        raise InputError(f"{args.truth} has {len(wrong)} row(s) of another class; correct them, or name all with --classes:\n{list_some(wrong)}")
    try:
        features = select(extract(args.images, args.masks, cases, args.jobs, description), args.features)
    except ValueError as error:
        raise InputError(f"{error}\nThe cases are those of {args.splits}, folds {name_some(args.folds)}.") from error
    try:
        predicted = out_of_fold(features, truth, splits, args.folds, classes, args.seed)
    except ValueError as error:
        raise InputError(f"{args.truth}, {args.splits}: {error}") from error
    write_tables(predicted, classes, args.out, task)
    right = np.mean([classes[int(np.argmax(p))] == truth[case] for case, p in predicted.items()])
    print(f"{args.out / f'{task}_probabilities.csv'}: {len(predicted)} cases out of fold, accuracy {right:.3f}")
    if args.predict_images:
        fresh = select(extract(args.predict_images, args.predict_masks, None, args.jobs, description), args.features)
        write_tables(fit_and_predict(features, truth, sorted(train), sorted(fresh), classes, args.seed, fresh), classes, args.out / "test", task)
        print(f"{args.out / 'test' / f'{task}_probabilities.csv'}: {len(fresh)} cases, fitted on all {len(train)}")
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder of case_0000.nii.gz")
    parser.add_argument("--masks", type=Path, required=True, help="folder of masks case.nii.gz, predicted or true")
    parser.add_argument("--truth", type=Path, required=True, help="true classes, columns case,subtype (or the task's name)")
    parser.add_argument("--dataset", type=Path, help="dataset.json of other data than the quiz's: labels, lesion, class task")
    parser.add_argument("--splits", type=Path, required=True, help="splits_final.json")
    parser.add_argument("--folds", type=whole_number(0), nargs="+", default=[1, 2, 3, 4, 5], help="folds to cross-validate over (default 1 2 3 4 5)")
    parser.add_argument("--classes", nargs="+", help="all classes in order (default: those in --truth)")
    parser.add_argument("--predict_images", type=Path, help="further images, predicted by a model of all training cases of --folds")
    parser.add_argument("--predict_masks", type=Path, help="their masks; every mask there is predicted")
    parser.add_argument("--features", nargs="+", choices=NAMES, default=NAMES, metavar="NAME",
                        help=f"features to use (default: all): {', '.join(NAMES)}")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=whole_number(0, 2**32 - 1), default=0, help="of the inner cross-validation")
    parser.add_argument("--jobs", type=whole_number(1), default=1, help="processes for the features (default 1)")
    args = parser.parse_args(arguments)
    if bool(args.predict_images) != bool(args.predict_masks):
        parser.error("--predict_images and --predict_masks go together")
    return args


if __name__ == "__main__":
    sys.exit(main())
