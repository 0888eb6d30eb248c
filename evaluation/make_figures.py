"""Draw the figures of a scored run into RESULTS/figures, each as PDF and PNG, and the index figures.json.

    python evaluation/make_figures.py --results results/fold0 --images IMAGES --ref LABELS --pred results/fold0/predictions/validation \
        --training FOLD_FOLDER --speed results/speed.json

Only --results is needed; a figure whose input is not given is not drawn. Or one picture of one case:

    python evaluation/make_figures.py --overlay CASE.png --image CASE_0000.nii.gz --ref CASE.nii.gz --pred CASE.nii.gz --title "A case"
"""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evaluation import figures, figures_of_runs
from evaluation.case_pairs import find_masks, is_synthetic
from evaluation.image_files import find_image
from evaluation.files import write_json
from evaluation.overlays import CaseImages, draw_overlay, draw_overlays
from evaluation.result_shapes import FigureIndex, Metrics, SpeedTable
from evaluation.selection import noteworthy, segmentation_failures
from evaluation.tables import number
from nnunetv2.utilities.commands import Parser, script
from nnunetv2.utilities.data_description import THE_QUIZ, DataDescription, description_of
from nnunetv2.utilities.errors import InputError, in_one_message
from nnunetv2.utilities.file_shapes import Progress
from nnunetv2.utilities.files import is_there, load_json

LONGEST_NAME = 60  # characters
OVERVIEW = "overlays"  # best, median and worst case in one picture
FIGURES = ("distributions", "volume_agreement", "lesion_size", "confusion_matrix", "roc_and_reliability", "training_curves", "speed_accuracy")


@script
def main(arguments: list[str] | None = None) -> int:
    args = _parse(arguments)
    if args.overlay:
        path = args.overlay.with_name(args.overlay.name.removesuffix(".png").removesuffix(".pdf"))
        stamp = "SYNTHETIC DATA" if args.synthetic or is_synthetic(args.image.parent) else ""
        draw_overlay(CaseImages.read(path.name, args.image, args.ref, args.pred, THE_QUIZ.label_values), path, args.title, stamp)
        print(f"Written: {path}.png, {path}.pdf")
    else:
        drawn = draw_all(args)
        print(f"{len(drawn['figures'])} figures and {len(drawn['overlays'])} overlays in {args.results / 'figures'}")
    return 0


def draw_all(args: argparse.Namespace) -> dict:
    """Draw what there is input for; returns and writes the index {"synthetic", "figures", "overlays"}. A former run's other figures go."""
    metrics, folder = load_json(args.results / "metrics.json", Metrics), args.results / "figures"
    progress = load_json(args.training / "progress.json", Progress) if args.training else None  # all input is read before the first figure
    speed = load_json(args.speed, SpeedTable) if args.speed else {}
    description, stamp = description_of(metrics), figures.stamp_of(metrics)
    wanted = {"distributions": figures.distributions, "volume_agreement": figures.volume_agreement}
    if description.lesion:
        wanted["lesion_size"] = figures.lesion_size
    if "subtype" in metrics:
        wanted["confusion_matrix"] = figures.confusion_matrix
        if "brier" in metrics["subtype"]:
            wanted["roc_and_reliability"] = figures.roc_and_reliability
    for name, draw in wanted.items():
        draw(metrics, folder / name)
    drawn = list(wanted)
    if progress is not None:
        figures_of_runs.training_curves(progress, folder / "training_curves", stamp, description.task_words, description.label_names)
        drawn.append("training_curves")
    if "rows" in speed:
        figures_of_runs.speed_accuracy(speed, folder / "speed_accuracy")
        drawn.append("speed_accuracy")
    overlays = draw_case_overlays(metrics, args.images, args.ref, args.pred, folder) if args.images else []
    index = {"synthetic": metrics["synthetic"], "figures": drawn, "overlays": overlays}
    _remove_former(folder, {*drawn, *([OVERVIEW] if overlays else []), *(overlay["file"] for overlay in overlays)})
    write_json(index, folder / "figures.json")
    return index


def _remove_former(folder: Path, drawn: set[str]) -> None:
    """Figures of a former run that were not drawn anew, by its index: they would pass for this run's. No other file is touched."""
    if not is_there(folder / "figures.json"):
        return
    try:
        former = load_json(folder / "figures.json", FigureIndex)
    except InputError:  # damaged, and about to be written anew
        return
    overlays = [overlay["file"] for overlay in former.get("overlays", [])]
    named = [name for name in former["figures"] if name in FIGURES] + ([OVERVIEW] if overlays else [])
    for name in {*named, *(name for name in overlays if name.startswith("overlay_") and "/" not in name)} - drawn:
        for suffix in ("pdf", "png"):
            (folder / f"{name}.{suffix}").unlink(missing_ok=True)


def draw_case_overlays(metrics: dict, images: Path, reference: Path, prediction: Path, folder: Path) -> list[dict]:
    """One picture for each noteworthy case, and `overlays` with best, median and worst; returns the index of the pictures."""
    references, predictions = (find_masks(folder, [row["case"] for row in metrics["cases"]]) for folder in (reference, prediction))
    description, stamp = description_of(metrics), figures.stamp_of(metrics)
    rows = {row["case"]: row for row in metrics["cases"]}
    overview, index, problems, chosen = [], [], [], noteworthy(metrics["cases"], description)
    without = sum(bool(segmentation_failures(row, description)) and row["case"] not in chosen for row in metrics["cases"])
    if without:
        print(f"{without} more failed cases get no picture, as others are worse; the gallery shows them.")
    for case, reasons in tqdm(chosen.items(), desc="Overlays", unit="case", disable=None):
        try:
            volume = CaseImages.read(case, find_image(images, case), references[case], predictions.get(case), description.label_values)
        except (OSError, ValueError) as error:
            problems.append(in_one_message(error))
            continue
        title = f"{shortened(case)}: {', '.join(reasons)}\n{_caption(rows[case], description)}"
        draw_overlay(volume, folder / f"overlay_{case}", title, stamp, description)
        index.append({"case": case, "reasons": reasons, "file": f"overlay_{case}"})
        if {"best", "median", "worst"} & set(reasons):
            overview.append((volume, title))
    if problems:
        raise InputError("\n".join(problems))
    draw_overlays(overview, folder / OVERVIEW, stamp, description)
    return index


def shortened(name: str) -> str:
    """A name that fits above a picture: the middle of a long one is left out."""
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME // 2]}\u2026{name[-LONGEST_NAME // 2:]}"


def _caption(row: dict, description: DataDescription) -> str:
    first, *others = description.drawn
    text = f"{'' if first == description.whole else f'{first.word} '}DSC {number(row[f'{first.key}_dsc'], 2)}"
    text += "".join(f", {structure.word} {number(row[f'{structure.key}_dsc'], 2)}" for structure in others)
    if "subtype_true" in row:
        text += f"; {description.task_words} {row['subtype_true']}, predicted {row['subtype_predicted'] or '-'}"
    return text


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--results", type=Path, help="folder with metrics.json")
    parser.add_argument("--images", type=Path, help="folder with case_0000.nii.gz, for overlays")
    parser.add_argument("--ref", type=Path, help="folder of reference masks (with --overlay: one mask)")
    parser.add_argument("--pred", type=Path, help="folder of predicted masks (with --overlay: one mask)")
    parser.add_argument("--training", type=Path, help="folder of a trained fold, with progress.json")
    parser.add_argument("--speed", type=Path, help="speed.json of the inference modes")
    parser.add_argument("--overlay", type=Path, metavar="FILE", help="draw one case into FILE (.png and .pdf) and nothing else")
    parser.add_argument("--image", type=Path, help="CT of --overlay")
    parser.add_argument("--title", default="", help="title of --overlay")
    parser.add_argument("--synthetic", action="store_true", help="with --overlay: the data is made up, say so")
    args = parser.parse_args(arguments)
    if not args.overlay and not args.results:
        parser.error("give --results, or --overlay with --image")
    if args.overlay and not args.image:
        parser.error("--overlay needs --image")
    if args.results and args.images and not (args.ref and args.pred):
        parser.error("--images needs --ref and --pred")
    return args


if __name__ == "__main__":
    sys.exit(main())
