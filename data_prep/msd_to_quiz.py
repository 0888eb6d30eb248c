"""Lay a REAL set of the Medical Segmentation Decathlon out as the quiz's data are: labels of its own, no class task.

    python data_prep/msd_to_quiz.py --out hippocampus_quiz --n 100               # ../shared/hippocampus, Task 04
    python data_prep/msd_to_quiz.py --source Task09_Spleen --out spleen_quiz
    bash experiments/run_fold0.sh --data hippocampus_quiz --out results/hippocampus_fold0 --epochs 12 --iterations 40

Reads imagesTr, labelsTr and dataset.json in the Decathlon's layout, one channel. Written: train/, validation/ and test/ (70 : 15 : 15,
--seed) and dataset_description.json with labels, source and licence from the set's own dataset.json. Every case is turned to one
orientation (LPS). The Decathlon does not say which cases are one patient's, so each case counts as a patient.
"""

import re
import sys
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.case_checks import problem_list, run_parallel
from data_prep.oriented_files import write_oriented
from data_prep.quiz_layout import SHARES, refuse_other_data, shared_out
from nnunetv2.utilities.commands import Parser, script, whole_number
from nnunetv2.utilities.data_description import FILE, DescriptionShape
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.file_shapes import OldDatasetJson
from nnunetv2.utilities.files import check_shape, load_json, save_json
from nnunetv2.utilities.image_listing import list_images

SOURCE = Path(__file__).resolve().parents[2] / "shared" / "hippocampus"
DECATHLON = "Medical Segmentation Decathlon (Antonelli et al. 2022, Nature Communications 13:4128; Simpson et al. 2019, arXiv 1902.09063)"


def describe(source: Path) -> dict:
    """dataset_description.json of the set; InputError where its own dataset.json cannot say what is needed."""
    file = source / "dataset.json"
    if not file.is_file():
        raise InputError(f"{file} does not exist. Put the Decathlon's set there, or name its folder with --source.")
    content = load_json(file, OldDatasetJson)
    name = content.get("name") or source.resolve().name
    organ = re.sub(r"[^A-Za-z0-9 -]", " ", name).strip().lower()
    described = {
        "name": re.sub(r"[^A-Za-z0-9]", "", name.title()), "title": organ, "organ": organ, "channel_names": content["modality"],
        "labels": {text.lower(): int(value) for value, text in content["labels"].items()},
        "source": f"{name}, {DECATHLON}" + (f"; images: {content['reference']}" if content.get("reference") else ""),
        "licence": content.get("licence") or content.get("license") or "as the set's dataset.json says", "real": True,
    }
    check_shape(described, DescriptionShape, f"{file}, as {FILE}")
    return described


def convert(source: Path, out: Path, seed: int = 0, n: int | None = None, processes: int | None = None) -> dict[str, str]:
    """Write `out`; returns {case: split}. n: that many cases at most, drawn from all."""
    described = describe(source)
    listed = {file: file.name.removesuffix(".nii.gz").removesuffix("_0000") for file in list_images(source / "imagesTr", ".nii.gz")}
    images = {name: file for file, name in listed.items()}
    problems = [f"{file}: {images[name].name} beside it is an image of {name} too; keep one" for file, name in listed.items() if images[name] != file]
    problems += [f"{source / 'labelsTr' / f'{name}.nii.gz'}: does not exist" for name in images if not (source / "labelsTr" / f"{name}.nii.gz").is_file()]
    if problems:
        raise InputError(f"{source} cannot be converted. {problem_list(problems)}")
    names = np.random.default_rng(seed).permutation(sorted(images)).tolist()[:n]
    splits = shared_out(names)
    for split in SHARES:
        (out / split).mkdir(parents=True, exist_ok=True)
    run_parallel(partial(_write, source, images, out, splits), sorted(splits), "writing REAL cases", processes)
    save_json(described | {"made_with": {"seed": seed}}, out / FILE)
    return splits


def _write(source: Path, images: dict[str, Path], out: Path, splits: dict[str, str], name: str) -> None:
    folder = out / splits[name]
    write_oriented(images[name], folder / f"{name}_0000.nii.gz")
    if splits[name] != "test":
        write_oriented(source / "labelsTr" / f"{name}.nii.gz", folder / f"{name}.nii.gz")


@script
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--source", type=Path, default=SOURCE, help="folder with imagesTr, labelsTr and dataset.json (default ../shared/hippocampus)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the data in the quiz's layout; must not hold other data")
    parser.add_argument("--seed", type=whole_number(0, 2**32 - 1), default=0, help="of the split (default 0)")
    parser.add_argument("--n", type=whole_number(7), help="that many cases at most, drawn at random (default: all)")
    parser.add_argument("-np", "--processes", type=whole_number(0), help="default: one per core, at most 8")
    args = parser.parse_args(arguments)
    refuse_other_data(args.out)
    splits = convert(args.source, args.out, args.seed, args.n, args.processes)
    counts = ", ".join(f"{split} {list(splits.values()).count(split)}" for split in SHARES)
    described = load_json(args.out / FILE, DescriptionShape)
    print(f"{args.out}: {len(splits)} REAL cases ({counts}). Source: {described['source']}. Licence: {described['licence']}")


if __name__ == "__main__":
    main()
