"""Write one self-contained gallery.html: every case with its figures, slices and contours, to sort, filter and leaf through.

    python evaluation/make_gallery.py --results results/fold0 --images IMAGES --ref LABELS --pred results/fold0/predictions/validation

Pictures are embedded, nothing is fetched from anywhere: the file can be mailed. Slices are axial, windowed to soft tissue;
large ones are shrunk to MAX_SIDE pixels and thinned to MAX_SLICES slices.
"""

import argparse
import base64
import io
import json
import math
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evaluation.case_pairs import find_masks
from evaluation.files import write_text
from evaluation.make_figures import find_image
from evaluation.overlays import WINDOW_HU, CaseImages
from evaluation.result_shapes import Metrics
from evaluation.selection import failures
from nnunetv2.utilities.commands import script
from nnunetv2.utilities.errors import InputError, in_one_message
from nnunetv2.utilities.files import load_json

TEMPLATE = Path(__file__).with_name("gallery_template.html")
MAX_SIDE, MAX_SLICES = 256, 96
MASK_STEP = 16  # grey levels between label codes, so that a decoder's colour management cannot confuse two of them
COLUMNS = [
    {"key": "case", "title": "Case", "kind": "text"},
    {"key": "whole_pancreas_dsc", "title": "DSC", "kind": "number", "digits": 3},
    {"key": "lesion_dsc", "title": "Lesion DSC", "kind": "number", "digits": 3},
    {"key": "lesion_reference_ml", "title": "Lesion ml", "kind": "number", "digits": 1},
]
SUBTYPE_COLUMNS = [
    {"key": "true", "title": "True", "kind": "text"},
    {"key": "predicted", "title": "Predicted", "kind": "text"},
    {"key": "confidence", "title": "p(true)", "kind": "number", "digits": 2},
]


@script
def main(arguments: list[str] | None = None) -> int:
    args = _parse(arguments)
    out = args.out or args.results / "gallery.html"
    page = build(load_json(args.results / "metrics.json", Metrics), args.images, args.ref, args.pred)
    write_text(page, out)
    print(f"Written: {out} ({len(page) / 2**20:.1f} MiB)")
    return 0


def build(metrics: dict, images: Path, reference: Path, prediction: Path) -> str:
    """The page's HTML for all cases of `metrics`."""
    references, predictions = find_masks(reference), find_masks(prediction)
    classes = metrics.get("subtype", {}).get("classes", [])
    has_probabilities = "brier" in metrics.get("subtype", {})
    cases, problems = [], []
    for row in tqdm(metrics["cases"], desc="Gallery", unit="case", disable=None):
        name = row["case"]
        try:
            volume = CaseImages.read(name, find_image(images, name), references[name], predictions.get(name))
        except (OSError, ValueError) as error:
            problems.append(in_one_message(error))
            continue
        if problems:
            continue  # pictures that nobody will see
        case = {column["key"]: row[column["key"]] for column in COLUMNS} | {"reasons": failures(row)} | _pictures(volume)
        if classes:
            case |= {"true": row["subtype_true"], "predicted": row["subtype_predicted"], "confidence": None}
        if has_probabilities:
            case |= {"probabilities": {k: row[f"p_{k}"] for k in classes}, "confidence": row[f"p_{row['subtype_true']}"]}
        cases.append(case)
    if problems:
        raise InputError("\n".join(problems))
    columns = COLUMNS + (SUBTYPE_COLUMNS if classes else []) + [{"key": "reasons", "title": "Failures", "kind": "reasons"}]
    data = {"synthetic": metrics["synthetic"], "columns": columns, "cases": cases,
            "reasons": sorted({reason for case in cases for reason in case["reasons"]})}
    text = json.dumps(data).replace("<", "\\u003c")  # no case name may close the script element
    return TEMPLATE.read_text(encoding="utf-8").replace("@DATA@", text)


def _pictures(case: CaseImages) -> dict:
    """The case's slices as two sprite sheets (CT as JPEG, label codes as PNG) and what is needed to find a slice in them."""
    slice_step = math.ceil(case.image.shape[0] / MAX_SLICES)
    pixel_step = math.ceil(max(case.image.shape[1:]) / MAX_SIDE)
    thin = np.s_[::slice_step, ::pixel_step, ::pixel_step]
    low, high = WINDOW_HU
    ct = (np.clip((case.image[thin] - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    codes = (case.reference[thin] + 4 * case.prediction[thin]) * np.uint8(MASK_STEP)
    slices, height, width = ct.shape
    grid = math.ceil(math.sqrt(slices))
    return {"ct": _data_url(_sprite(ct, grid), "jpeg", quality=85), "masks": _data_url(_sprite(codes, grid), "png", optimize=True),
            "size": [width, height], "slices": slices, "grid": grid, "start": min(case.centre()[0] // slice_step, slices - 1),
            "aspect": case.spacing[1] / case.spacing[2]}


def _sprite(slices: np.ndarray, grid: int) -> np.ndarray:
    """(n, h, w) -> (rows * h, grid * w), row by row; the rest is black."""
    n, height, width = slices.shape
    rows = math.ceil(n / grid)
    sheet = np.zeros((rows * grid, height, width), slices.dtype)
    sheet[:n] = slices
    return sheet.reshape(rows, grid, height, width).swapaxes(1, 2).reshape(rows * height, grid * width)


def _data_url(picture: np.ndarray, kind: str, **options) -> str:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="folder with metrics.json")
    parser.add_argument("--images", type=Path, required=True, help="folder with case_0000.nii.gz")
    parser.add_argument("--ref", type=Path, required=True, help="folder of reference masks")
    parser.add_argument("--pred", type=Path, required=True, help="folder of predicted masks")
    parser.add_argument("--out", type=Path, help="default: gallery.html in --results")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
