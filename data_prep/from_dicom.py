"""Convert a folder tree of DICOM series into images that nnUNetv2_predict takes, with a table of what came from where.

    python data_prep/from_dicom.py --source dicom --out imagesTs                  # CT; cases are numbered, no patient's name in a file name
    python data_prep/from_dicom.py --source dicom --out imagesTs --folder-names   # cases are called like their folders
    python data_prep/from_dicom.py --source dicom --out imagesTs --resample-tilt  # put stacks of a tilted gantry upright
    python data_prep/from_dicom.py --source dicom --out imagesTs --dry-run        # look at headers, write nothing

Needs pydicom: pip install -c constraints.txt -e ".[dicom]". Slices are sorted by where they lie in the patient; values are rescaled to HU.
Written: CASE_0000.nii.gz for each series, and series.csv: case, series and study UID, description, size, spacing, folder. That table tells
who is who; keep it where patient data belong. A series with gaps, repeated or unevenly spaced slices, slices of several kinds, sheared
stacks or damaged files is refused, all of them at once; the others are converted, and kept by the next run.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nnunetv2.configuration import available_cores
from nnunetv2.imageio.dicom_conversion import TABLE, convert_folder
from nnunetv2.imageio.dicom_files import scan_folder
from nnunetv2.imageio.dicom_series import stack_of
from nnunetv2.utilities.commands import Parser, script, whole_number
from nnunetv2.utilities.errors import CasesFailed, InputError


def check(source: Path, modality: str | None, min_slices: int, resample_tilt: bool) -> tuple[int, list[str], str]:
    """(sound series, problems, what is skipped) by headers alone."""
    scan = scan_folder(source, modality, min_slices)
    problems = []
    for series in scan.series:
        try:
            stack_of(series, resample_tilt)
        except InputError as error:
            problems.append(str(error))
    return len(scan.series) - len(problems), [*scan.damaged.values(), *problems], scan.summary()


@script
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--source", type=Path, required=True, help="folder with DICOM files, at any depth; links are refused")
    parser.add_argument("--out", type=Path, required=True, help="folder for the images and series.csv")
    parser.add_argument("--modality", default="CT", help="series of this modality; 'any' takes all that have positions (default CT)")
    parser.add_argument("--min-slices", type=whole_number(2), default=5, help="shorter series are skipped and counted: scouts, samples (default 5)")
    parser.add_argument("--folder-names", action="store_true", help="call cases like their folders; see to it that these are no patients' names")
    parser.add_argument("--resample-tilt", action="store_true", help="move the slices of a tilted gantry onto one grid rather than refuse them")
    parser.add_argument("--dry-run", action="store_true", help="look at headers, write nothing")
    parser.add_argument("-np", "--processes", type=whole_number(0), help="default: one per core, at most 8")
    args = parser.parse_args(arguments)
    modality = None if args.modality.lower() == "any" else args.modality
    if args.dry_run:
        n_sound, problems, skipped = check(args.source, modality, args.min_slices, args.resample_tilt)
        done = f"{n_sound} series can be converted"
    else:
        processes = args.processes if args.processes is not None else min(8, available_cores())
        conversion = convert_folder(args.source, args.out, modality=modality, min_slices=args.min_slices, folder_names=args.folder_names,
                                    resample_tilt=args.resample_tilt, processes=processes)
        n_sound, problems, skipped = len(conversion.converted), conversion.problems, conversion.skipped
        kept = f", {conversion.n_kept} of them by a former run" if conversion.n_kept else ""
        done = f"{n_sound} series are in {args.out}{kept}; {TABLE} says which"
    if skipped:
        print(f"Skipped:\n{skipped}")
    if not n_sound and not problems:
        raise InputError(f"{args.source} holds no {'' if modality is None else f'{modality} '}series of {args.min_slices} or more slices. "
                         "Name the folder above the series, or choose another --modality or --min-slices.")
    if problems:
        listed = "\n".join(problems)
        raise CasesFailed(f"{args.source}: {len(problems)} series or file(s) cannot be converted; {done}.\n{listed}")
    print(f"{done}.")


if __name__ == "__main__":
    main()
