"""Lay out a fold's validation cases as folders of images and labels, so that they can be predicted and scored like a test set.

    python data_prep/split_view.py --raw nnUNet_raw/Dataset777_PancreasCT --fold 0 --out work/validation

Writes `OUT/images/CASE_0000.nii.gz` and `OUT/labels/CASE.nii.gz` as links to the raw dataset; copies where links are refused. What a
former run wrote there goes; where other files are in these two folders nothing is written.
"""

import glob
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from nnunetv2.utilities.commands import Parser, script, whole_number  # noqa: E402
from nnunetv2.utilities.errors import InputError, list_some  # noqa: E402
from nnunetv2.utilities.file_shapes import DatasetJson, Splits  # noqa: E402
from nnunetv2.utilities.files import load_json  # noqa: E402
from nnunetv2.utilities.own_folders import rewritten  # noqa: E402
from nnunetv2.utilities.safe_names import plain_ending, plain_names  # noqa: E402
from nnunetv2.utilities.splits import split_problems  # noqa: E402


def link_validation_cases(raw: Path, fold: int, out: Path) -> int:
    """Link images and labels of the fold's validation cases below `out`; returns the number of cases."""
    ending = plain_ending(load_json(raw / "dataset.json", DatasetJson)["file_ending"], raw / "dataset.json")
    splits = load_json(raw / "splits_final.json", Splits)
    if not 0 <= fold < len(splits):
        raise InputError(f"{raw / 'splits_final.json'} has folds 0 to {len(splits) - 1}, not {fold}. Choose one of them with --fold.")
    if wrong := split_problems(splits[fold]["train"], splits[fold]["val"], None, (), ending):
        raise InputError(f"{raw / 'splits_final.json'}, fold {fold}:\n{list_some(wrong)}")
    cases = plain_names(splits[fold]["val"], "case", raw / "splits_final.json")
    images = [path for case in cases for path in sorted((raw / "imagesTr").glob(f"{glob.escape(case)}_[0-9][0-9][0-9][0-9]{ending}"))]
    without = sorted({*cases} - {path.name[: -len("_0000") - len(ending)] for path in images})
    labels = [raw / "labelsTr" / f"{case}{ending}" for case in cases]
    if absent := [label for label in labels if not label.is_file()] + [raw / "imagesTr" / f"{case}_0000{ending}" for case in without]:
        raise InputError(f"{raw / 'splits_final.json'}, fold {fold}, names cases that are not there; correct it or add the files:\n" + "\n".join(f"  {label}" for label in absent))
    folders = {out / name: {source.name: source for source in sources} for name, sources in (("images", images), ("labels", labels))}
    with rewritten(folders, [raw]):
        for folder, sources in folders.items():
            for name, source in sources.items():
                link_or_copy(source.resolve(strict=True), folder / name)
    return len(cases)


def link_or_copy(source: Path, target: Path) -> None:
    """A symbolic link, or a copy on file systems without them."""
    try:
        os.symlink(source, target)
    except OSError:
        shutil.copy2(source, target)


@script
def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--raw", type=Path, required=True, help="nnUNet_raw/DatasetXXX_Name with splits_final.json")
    parser.add_argument("--fold", type=whole_number(0), default=0, help="fold whose validation cases are laid out; 0 is the quiz's split")
    parser.add_argument("--out", type=Path, required=True, help="folder for images/ and labels/")
    args = parser.parse_args()
    n = link_validation_cases(args.raw, args.fold, args.out)
    print(f"{n} validation cases of fold {args.fold} in {args.out}")


if __name__ == "__main__":
    main()
