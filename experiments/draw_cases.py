"""Draw new SYNTHETIC cases and lay them out flat, to try a trained model on.

    python -m experiments.draw_cases results/accuracy/work --preset varied --seed 4716 --n 60

Writes OUT/images/CASE_0000.nii.gz, OUT/labels/CASE.nii.gz and OUT/subtypes.csv (case,subtype); the files themselves are in OUT/data.
"""

from pathlib import Path

from data_prep.make_phantom import PRESETS, case_files, make_phantom
from data_prep.phantom_worlds import WORLDS, Manner
from data_prep.split_view import link_or_copy
from nnunetv2.utilities.commands import Parser, script, whole_number
from nnunetv2.utilities.csv_files import write_rows


def draw_cases(folder: Path, n: int, seed: int, preset: str = "demo", world: str = "abdomen") -> tuple[Path, dict[str, int]]:
    """Make `n` cases below `folder`, keeping what is there; the folder of their images, and the class of each case."""
    cases = make_phantom(folder / "data", preset, seed, (n, 0, 0), manner=Manner(cues=world != "abdomen", world=world))
    for name in ("images", "labels"):
        (folder / name).mkdir(exist_ok=True)
    for case in cases:
        for source, name in zip(case_files(folder / "data", case), ("images", "labels")):
            if not (folder / name / source.name).exists():
                link_or_copy(source.resolve(), folder / name / source.name)
    write_rows(folder / "subtypes.csv", [["case", "subtype"], *([case.name, case.subtype] for case in cases)])
    return folder / "images", {case.name: case.subtype for case in cases}


@script
def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="demo")
    parser.add_argument("--seed", type=whole_number(0, 2**32 - 1), required=True)
    parser.add_argument("--n", type=whole_number(1), default=60)
    parser.add_argument("--world", choices=WORLDS, default="abdomen", help="painter")
    args = parser.parse_args()
    images, _ = draw_cases(args.out, args.n, args.seed, args.preset, args.world)
    print(f"{args.n} SYNTHETIC cases in {images}")


if __name__ == "__main__":
    main()
