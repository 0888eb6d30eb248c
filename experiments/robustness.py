"""How much masks of REAL CTs depend on mode, axes, voxel size, field of view and intensities; see run_robustness.sh.

    python -m experiments.robustness --model MODEL_FOLDER --scans ts_sm_0000 ts_dicom_0000

Every variant of a scan (experiments/scan_variants.py) goes through every mode, as one process a scan, mode and reader; its mask comes back to the
scan's grid and is compared with the mask of the scan as it is, in the same mode. Axes are also tried with the reader that turns every image
to one orientation first. What `fast` misses although `exact` finds more than 1 ml of a label is listed.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from evaluation.files import write_json, write_text
from experiments.pipeline import model_of
from experiments.record_run import code_commit, environment, shown_command
from experiments.robustness_report import draw, markdown
from experiments.scan_variants import AS_IS, UNSEEN, Scan, Variant, on_grid_of, variants_of
from experiments.speed_masks import dice
from experiments.stage import content_key, run_stage
from nnunetv2.inference.model_loading import find_model
from nnunetv2.inference.modes import MODES
from nnunetv2.utilities.commands import Parser, script
from nnunetv2.utilities.errors import CommandFailed, InputError, name_some
from nnunetv2.utilities.file_shapes import AnyObject, DatasetJson, Plans
from nnunetv2.utilities.files import load_json, save_json
from nnunetv2.utilities.folder_lock import folder_lock

SCANS = Path(__file__).resolve().parents[2] / "shared" / "realct"
GROUPS = ("axes", "voxel size", "field of view", "intensity")
OWN, TURNING = "the model's reader", "SimpleITKIOWithReorient"
SOURCE = "two abdominal CTs of TotalSegmentator's test files (Wasserthal et al. 2023, Radiology: AI 5:e230024), commit 0e65a448"
MISSED_ML = 1.0  # of a label in `exact`: more than this must not be nothing in `fast`


def model_with_reader(model: Path, fold: str, reader: str, folder: Path) -> Path:
    """A folder with links to the model's files, and with plans that name another reader."""
    folder.mkdir(parents=True, exist_ok=True)
    save_json(load_json(model / "plans.json", Plans) | {"image_reader_writer": reader}, folder / "plans.json")
    save_json(load_json(model / "dataset.json", DatasetJson), folder / "dataset.json")
    link = folder / f"fold_{fold}"
    link.unlink(missing_ok=True)
    link.symlink_to((model / f"fold_{fold}").resolve(), target_is_directory=True)
    return folder


def write_variants(scan: Scan, groups: tuple[str, ...], folder: Path) -> list[Variant]:
    """CASE_0000.nii.gz of each variant in `folder`, where it is not there yet."""
    variants = list(variants_of(scan, groups))
    folder.mkdir(parents=True, exist_ok=True)
    for variant in tqdm(variants, desc=f"Writing {folder.name}", unit="file", disable=None):
        file = folder / f"{variant.case}_0000.nii.gz"
        if not file.is_file():
            variant.scan.write(file)
    return variants


def predict(name: str, images: Path, out: Path, model: Path, mode: str, args: argparse.Namespace) -> None:
    """One process over a folder of variants, unless it is done."""
    command = [
        str(Path(sys.executable).parent / "nnUNetv2_predict_from_modelfolder"),
        "-i",
        str(images),
        "-o",
        str(out),
        "-m",
        str(model),
        "-f",
        args.fold,
        "-device",
        args.device,
        "--mode",
        mode,
        "--continue_prediction",
        "--disable_progress_bar",
    ]
    keys = [content_key([images]), content_key([model / f"fold_{args.fold}" / "checkpoint_final.pth"])]
    if run_stage(out.parent, name, [out], command, keys):
        raise CommandFailed(
            f"{name}: the prediction failed; its message is above. Given again, the command goes on there."
        )


def compare(variants: list[Variant], scan: Scan, masks: Path, labels: dict[str, int]) -> list[dict[str, Any]]:
    """Of each variant: share of voxels that differ from the scan as it is, DSC and volume of each label, where both grids reach."""
    found = {variant.case: on_grid_of(masks / f"{variant.case}.nii.gz", scan) for variant in variants}
    same = found[variants[0].case]
    millilitre = float(np.prod(scan.spacing)) / 1000
    rows = []
    for variant in variants:
        mask = found[variant.case]
        seen = mask != UNSEEN
        pairs = {label: ((same == value) & seen, (mask == value) & seen) for label, value in labels.items()}
        rows.append(
            {
                "group": variant.group,
                "variant": variant.name,
                "differ": float((mask != same)[seen].mean()),
                "voxels_differ": int((mask != same)[seen].sum()),
                "covered": float(seen.mean()),
                "dsc": {label: dice(*pair) for label, pair in pairs.items()},
                "ml": {label: round(float(pair[1].sum()) * millilitre, 3) for label, pair in pairs.items()},
            }
        )
    return rows


def between_modes(masks: dict[str, Path], variants: list[Variant], labels: dict[str, int]) -> list[dict[str, Any]]:
    """Each mode beside `exact` on the scan as it is, and on the variants' own grids what a mode misses of which `exact` finds MISSED_ML."""
    rows = []
    for mode in masks:
        missed = []
        for variant in variants:
            own = float(np.prod(variant.scan.spacing)) / 1000
            exact, other = (
                on_grid_of(masks[which] / f"{variant.case}.nii.gz", variant.scan) for which in ("exact", mode)
            )
            volumes = {label: float((exact == value).sum()) * own for label, value in labels.items()}
            missed += [
                {"variant": f"{variant.group}, {variant.name}", "label": label, "exact_ml": round(volumes[label], 2)}
                for label, value in labels.items()
                if volumes[label] > MISSED_ML and not (other == value).any()
            ]
            if variant.name == AS_IS:
                row = {
                    "mode": mode,
                    "differ": float((exact != other).mean()),
                    "ml": {name: round(volume, 3) for name, volume in volumes.items()},
                    "dsc": {label: dice(exact == value, other == value) for label, value in labels.items()},
                }
        rows.append(row | {"variants": len(variants), "missed": missed})
    return rows


def study(name: str, args: argparse.Namespace, work: Path, labels: dict[str, int]) -> dict[str, Any]:
    """Everything about one scan."""
    scan = Scan.read(args.folder / f"{name}.nii.gz")
    groups = tuple(group for group in args.groups if group != "axes" or name in args.axes_of)
    variants = write_variants(scan, groups, work / "images" / name)
    others = [variant for variant in variants if variant.group != "axes"]
    axes = [variant for variant in variants if variant.group in ("scan", "axes")]
    parts = [("", OWN, args.model, others, args.modes)]
    if "axes" in groups:
        turning = model_with_reader(args.model, args.fold, TURNING, work / "model_that_turns")
        parts += [
            ("_axes", OWN, args.model, axes, args.axes_modes),
            ("_turned", TURNING, turning, axes, args.axes_modes),
        ]
    rows, masks, computed_in = [], {}, {}
    for suffix, reader, model, chosen, modes in parts:
        images = linked(
            work / "images" / name, [variant.case for variant in chosen], work / f"images{suffix or '_others'}" / name
        )
        for mode in modes:
            out = work / "predictions" / f"{name}_{mode}{suffix}"
            predict(out.name, images, out, model, mode, args)
            rows += [
                {"mode": mode, "reader": reader} | row
                for row in compare(chosen, scan, out, labels)
                if row["variant"] != AS_IS
            ]
            if not suffix:
                masks[mode] = out
                computed_in[mode] = load_json(out / "prediction_times.json", AnyObject)["computed_in"]
    result = {
        "scan": name,
        "shape": list(scan.array.shape),
        "spacing_mm": [round(float(value), 4) for value in scan.spacing],
        "variants": rows,
        "computed_in": computed_in,
    }
    return result | ({"modes": between_modes(masks, others, labels)} if "exact" in masks else {})


def linked(images: Path, cases: list[str], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for case in cases:
        link = folder / f"{case}_0000.nii.gz"
        link.unlink(missing_ok=True)
        link.symlink_to((images / link.name).resolve())
    return folder


@script
def main(arguments: list[str] | None = None) -> int:
    args = _parse(sys.argv[1:] if arguments is None else arguments)
    if not args.folder.is_dir():
        print(f"{args.folder} does not exist, so the REAL CTs are left out. Name their folder with --folder.")
        return 0
    missing = [name for name in args.scans if not (args.folder / f"{name}.nii.gz").is_file()]
    if missing:
        raise InputError(
            f"{args.folder} lacks {name_some([f'{name}.nii.gz' for name in missing])}. Name others with --scans, without .nii.gz."
        )
    args.model = (args.model or model_of(Path("results/fold0"))).resolve()
    description = find_model(args.model, (args.fold,)).dataset_json
    labels = {label: int(value) for label, value in description["labels"].items() if int(value)}
    work = (args.out / "work").resolve()
    with folder_lock(work, "robustness", "a study runs"):
        scans = [study(name, args, work, labels) for name in args.scans]
    result = {
        "synthetic": False,
        "source": SOURCE,
        "licence": "Apache-2.0",
        "model_is_synthetic": bool(description.get("synthetic")),
        "model": {"dataset": description.get("name"), "labels": labels},
        "command": shown_command("run_robustness.sh", args.given),
        "commit": code_commit(),
        "environment": environment(args.device),
        "n": len(scans),
        "modes": args.modes,
        "scans": scans,
    }
    file = args.out.with_name(f"{args.out.name}.json")
    write_json(result, file)
    text = markdown(load_json(file, AnyObject))  # as a later reader of the file would write it
    write_text(text, file.with_suffix(".md"))
    draw(result, args.out)
    print(text)
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument(
        "--model", type=Path, help="trained model folder (default: the main job's, trained on SYNTHETIC CTs)"
    )
    parser.add_argument("--fold", default="0")
    parser.add_argument("--folder", type=Path, default=SCANS, help="of the CTs (default ../shared/realct)")
    parser.add_argument(
        "--scans",
        nargs="+",
        default=["ts_dicom_0000", "ts_sm_0000"],
        help="files in --folder, without .nii.gz (default: a cut of each of the two patients)",
    )
    parser.add_argument(
        "--axes_of",
        nargs="*",
        default=["ts_dicom_0000"],
        help="scans whose axes are turned 48 ways; small ones, for time's sake",
    )
    parser.add_argument(
        "--axes_modes",
        nargs="+",
        choices=list(MODES),
        default=["exact", "fast"],
        help="in which axes are turned, with either reader",
    )
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--out", type=Path, default=Path("results/robustness"), help="path of the .json, .md and .png without ending"
    )
    args = parser.parse_args(arguments)
    args.given = arguments
    return args


if __name__ == "__main__":
    main()
