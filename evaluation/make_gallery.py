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
from itertools import cycle
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evaluation.case_pairs import find_masks
from evaluation.files import write_text
from evaluation.image_files import find_image
from evaluation.overlays import COLOURS, CaseImages, window_of
from evaluation.result_shapes import Metrics
from evaluation.selection import failures
from evaluation.tables import heading
from nnunetv2.utilities.commands import Parser, script
from nnunetv2.utilities.data_description import DataDescription, description_of
from nnunetv2.utilities.errors import InputError, in_one_message
from nnunetv2.utilities.files import load_json

TEMPLATE = Path(__file__).with_name("gallery_template.html")
MAX_SIDE, MAX_SLICES = 256, 96
MASK_STEP = 16  # grey levels between label codes, so that a decoder's colour management cannot confuse two of them
MOST_LABELS_OF_ONE_CHANNEL = 4  # truth and prediction then share one grey value; else each has a colour channel
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
    references, predictions = (find_masks(folder, [row["case"] for row in metrics["cases"]]) for folder in (reference, prediction))
    classes = metrics.get("subtype", {}).get("classes", [])
    has_probabilities = "brier" in metrics.get("subtype", {})
    description = description_of(metrics)
    columns = _columns(description)
    cases, problems = [], []
    for row in tqdm(metrics["cases"], desc="Gallery", unit="case", disable=None):
        name = row["case"]
        try:
            volume = CaseImages.read(name, find_image(images, name), references[name], predictions.get(name), description.label_values)
        except (OSError, ValueError) as error:
            problems.append(in_one_message(error))
            continue
        if problems:
            continue  # pictures that nobody will see
        case = {column["key"]: row[column["key"]] for column in columns} | {"reasons": failures(row, description)} | _pictures(volume, description)
        if classes:
            case |= {"true": row["subtype_true"], "predicted": row["subtype_predicted"], "confidence": None}
        if has_probabilities:
            case |= {"probabilities": {k: row[f"p_{k}"] for k in classes}, "confidence": row[f"p_{row['subtype_true']}"]}
        cases.append(case)
    if problems:
        raise InputError("\n".join(problems))
    columns += (SUBTYPE_COLUMNS if classes else []) + [{"key": "reasons", "title": "Failures", "kind": "reasons"}]
    data = {"synthetic": metrics["synthetic"], "banner": description.banner(metrics["synthetic"]).replace("these figures", "these pictures and figures"),
            "task": heading(description.task_words), "shared": _one_channel(description),
            "structures": [{"word": structure.word, "labels": structure.labels, "truth": truth.lower(), "prediction": found.lower()}
                           for structure, (truth, found) in zip(description.drawn, cycle(COLOURS))],
            "columns": columns, "cases": cases,
            "reasons": sorted({reason for case in cases for reason in case["reasons"]})}
    text = json.dumps(data).replace("<", "\\u003c")  # no case name may close the script element
    return TEMPLATE.read_text(encoding="utf-8").replace("@DATA@", text)


def _one_channel(description: DataDescription) -> bool:
    return len(description.label_values) <= MOST_LABELS_OF_ONE_CHANNEL


def _columns(description: DataDescription) -> list[dict]:
    """Of the table: the case, the DSC of each structure that is judged and the lesion's volume."""
    columns: list[dict] = [{"key": "case", "title": "Case", "kind": "text"}]
    columns += [{"key": f"{structure.key}_dsc", "title": "DSC" if description.judged == [structure] else f"{structure.title} DSC", "kind": "number", "digits": 3}
                for structure in description.judged]
    lesion = description.lesion
    return columns + ([{"key": f"{lesion.key}_reference_ml", "title": f"{lesion.title} ml", "kind": "number", "digits": 1}] if lesion else [])


def _pictures(case: CaseImages, description: DataDescription) -> dict:
    """The case's slices as two sprite sheets (CT as JPEG, label codes as PNG) and what is needed to find a slice in them."""
    slice_step = math.ceil(case.image.shape[0] / MAX_SLICES)
    pixel_step = math.ceil(max(case.image.shape[1:]) / MAX_SIDE)
    thin = np.s_[::slice_step, ::pixel_step, ::pixel_step]
    low, high = window_of(case.image, description)
    ct = (np.clip((case.image[thin] - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    truth, found = case.reference[thin], case.prediction[thin]
    codes = (truth + 4 * found) * np.uint8(MASK_STEP) if _one_channel(description) else np.stack([truth, found, 0 * truth], -1) * np.uint8(MASK_STEP)
    slices, height, width = ct.shape
    grid = math.ceil(math.sqrt(slices))
    return {"ct": _data_url(_sprite(ct, grid), "jpeg", quality=85), "masks": _data_url(_sprite(codes, grid), "png", optimize=True),
            "size": [width, height], "slices": slices, "grid": grid, "start": min(case.centre(description)[0] // slice_step, slices - 1),
            "aspect": case.spacing[1] / case.spacing[2]}


def _sprite(slices: np.ndarray, grid: int) -> np.ndarray:
    """(n, h, w, ...) -> (rows * h, grid * w, ...), row by row; the rest is black."""
    n, height, width, *channels = slices.shape
    rows = math.ceil(n / grid)
    sheet = np.zeros((rows * grid, height, width, *channels), slices.dtype)
    sheet[:n] = slices
    return sheet.reshape(rows, grid, height, width, *channels).swapaxes(1, 2).reshape(rows * height, grid * width, *channels)


def _data_url(picture: np.ndarray, kind: str, **options) -> str:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--results", type=Path, required=True, help="folder with metrics.json")
    parser.add_argument("--images", type=Path, required=True, help="folder with case_0000.nii.gz")
    parser.add_argument("--ref", type=Path, required=True, help="folder of reference masks")
    parser.add_argument("--pred", type=Path, required=True, help="folder of predicted masks")
    parser.add_argument("--out", type=Path, help="default: gallery.html in --results")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
