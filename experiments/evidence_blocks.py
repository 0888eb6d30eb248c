"""What each evidence block finds in the TRUE masks of SYNTHETIC cases: the loop for whoever edits a block; no network, no training.

    python -m experiments.evidence_blocks --world cells                           # every cue, every block
    python -m experiments.evidence_blocks --cues duct number --train 120 --out /tmp/blocks

Cases come from a seed for development (options.py), never from those that are reported. Printed: out-of-fold macro-F1 of three classes per cue,
all blocks together and each block alone. A block that misses its own cue here will miss it in predicted masks.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.make_phantom import list_cases, make_phantom
from data_prep.phantom_cues import CUES
from data_prep.phantom_worlds import PLAIN, WORLDS, Manner
from experiments.options import DEVELOPMENT_SEEDS
from nnunetv2.class_evidence.blocks import BLOCKS
from nnunetv2.class_evidence.case import Intensities
from nnunetv2.class_evidence.fit import fit_evidence
from nnunetv2.class_evidence.measure import Measurement
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.commands import Parser, script, whole_number
from nnunetv2.utilities.csv_files import read_csv
from nnunetv2.utilities.parallel import in_processes

SEED = DEVELOPMENT_SEEDS[-1]
SEEN_HU = (-100.0, 320.0)  # as planning clips the demo phantom, roughly: percentiles of pancreas and lesion
LESION = 2


def made_cases(out: Path, preset: str, n: int, manner: Manner = PLAIN) -> dict[str, tuple[Path, Path]]:
    """Image and mask of n SYNTHETIC cases, made below `out` unless they are there."""
    make_phantom(out, preset, SEED, (n, 0, 0), None, manner)
    folders = {case.name: out / "train" / f"subtype{case.subtype}" for case in list_cases((n, 0, 0), SEED)}
    return {name: (folder / f"{name}_0000.nii.gz", folder / f"{name}.nii.gz") for name, folder in folders.items()}


def read_case(image: Path, mask: Path) -> tuple[np.ndarray, np.ndarray, dict[str, Any], Measurement]:
    """Voxels (1, Z, Y, X) as far as a network sees them, labels (Z, Y, X), properties, and how to measure them."""
    data, properties = SimpleITKIO().read_images([image])
    labels = SimpleITKIO().read_seg(mask)[0][0].astype(np.uint8)
    return np.clip(data, *SEEN_HU), labels, properties, Measurement((LESION,), tuple(properties["spacing"]), (Intensities(low=SEEN_HU[0], high=SEEN_HU[1]),))


def measure_case(image: Path, mask: Path) -> dict[str, dict[str, float]] | None:
    """Features of every block in the true mask."""
    data, labels, properties, measurement = read_case(image, mask)
    return measurement(data, labels, properties, tuple(BLOCKS))


def study_cue(measured: list[dict[str, dict[str, float]]], labels: np.ndarray) -> dict[str, float]:
    """macro-F1, out of fold: `all` blocks stacked, and each alone."""
    report = fit_evidence(measured, labels, 3)[1]
    return {"all": report["left_out"]["macro_f1"]} | {name: block["macro_f1_alone"] for name, block in report["blocks"].items()}


def table(found: dict[str, dict[str, float]]) -> str:
    columns = list(next(iter(found.values())))
    width = max(map(len, found)) + 1
    lines = [" " * width + " ".join(f"{column[:7]:>7}" for column in columns)]
    lines += [f"{cue:{width}}" + " ".join(f"{row[column]:7.2f}" for column in columns) for cue, row in found.items()]
    return "\n".join([*lines, f"mean of all but mixed: {np.mean([row['all'] for cue, row in found.items() if cue != 'mixed'] or [np.nan]):.3f}"])


@script
def main(arguments: list[str] | None = None) -> int:
    args = _parse(arguments)
    out = args.out / f"{args.world}_{args.train}"
    files = made_cases(out, "demo", args.train, Manner(cues=True, world=args.world))
    measured = in_processes(measure_case, files, None, "measuring")
    kept = [name for name in files if measured[name] is not None]
    rows = {row["case"]: row for row in read_csv(out / "cues.csv").rows}
    jobs = {cue: ([measured[name] for name in kept], np.array([int(rows[name][cue]) for name in kept])) for cue in args.cues}
    print(f"SYNTHETIC, world {args.world}, seed {SEED}, true masks, n = {len(kept)}")
    print(table(in_processes(study_cue, jobs, None, "fitting")))
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--world", choices=WORLDS, default="abdomen")
    parser.add_argument("--cues", nargs="+", choices=CUES, default=list(CUES))
    parser.add_argument("--train", type=whole_number(15), default=240, help="cases (default 240)")
    parser.add_argument("--out", type=Path, default=Path("results/evidence_blocks"), help="where the images are kept")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
