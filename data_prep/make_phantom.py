"""Make synthetic abdominal CTs with a pancreas and a lesion of one of three subtypes, laid out as the quiz's data.

    python data_prep/make_phantom.py OUT --preset smoke            # 15 + 3 + 2 tiny cases, seconds
    python data_prep/make_phantom.py OUT --preset demo             # 126 + 36 + 12 coarse cases, the README's default
    python data_prep/make_phantom.py OUT --preset quiz --train 12 --validation 6 --test 4
    python data_prep/make_phantom.py OUT --preset abdomen --train 3 --validation 3 --test 1    # 512 x 512 x 200, for timing
    python data_prep/make_phantom.py OUT --preset torso              # the same millimetres on the voxels of demo
    python data_prep/make_phantom.py OUT --preset varied             # voxels of demo, fields of view of quiz: 1 to 8 windows
    python data_prep/make_phantom.py OUT --preset demo --cues        # classes of twelve other kinds on the same images (phantom_cues.py)
    python data_prep/make_phantom.py OUT --preset demo --cues --world cells     # another painter (phantom_cells.py)
    python data_prep/make_phantom.py OUT --preset demo --cues --scanner other   # another scanner (phantom_scanner.py)

    OUT/{train,validation}/subtype{0,1,2}/quiz_S_NNN_0000.nii.gz    image, and quiz_S_NNN.nii.gz: 0, 1 pancreas, 2 lesion
    OUT/test/quiz_NNN_0000.nii.gz                                   image only
    OUT/test_truth/                                                 what the test set must not show: masks, subtypes.csv
    OUT/cues.csv                                                    with --cues: class of every case by each cue
    OUT/SYNTHETIC.txt, OUT/phantom.json                             says that these are no patients; how they were made

A case depends on preset, seed, split and its place in the split alone, so a killed run goes on where it stopped and the
number of processes changes nothing.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.case_checks import run_parallel
from data_prep.phantom_anatomy import Canvas
from data_prep.phantom_cues import CUES, Drawn, draw
from data_prep.phantom_scanner import SCANNERS
from data_prep.phantom_worlds import PLAIN, WORLDS, Manner
from data_prep.quiz_layout import SYNTHETIC_MARKER, refuse_other_data
from nnunetv2.utilities.commands import Parser, script, whole_number
from nnunetv2.utilities.csv_files import write_rows
from nnunetv2.utilities.data_description import FILE
from nnunetv2.utilities.file_shapes import AnyObject
from nnunetv2.utilities.files import atomic_write, is_there, load_json, save_json

SPLITS = ("train", "validation", "test")
PROPORTIONS = {"train": (62, 106, 84), "validation": (9, 15, 12), "test": (18, 30, 24)}  # the quiz's; its test set is unknown
ALMOST_ONE = 1.0000152587890625  # what 1 becomes in most of the quiz's masks after a scaled 16-bit round trip


@dataclass(frozen=True)
class Preset:
    shape: tuple[int, int, int]  # voxels (z, y, x)
    spacing: tuple[float, float, float]  # mm (z, y, x)
    cases: tuple[int, int, int]  # train, validation, test
    supersample: int  # painted this much finer, then averaged: partial volume
    noise_hu: float
    radius_mm: tuple[float, float] = (10.5, 16.5)  # lesion, about 4 to 22 ml
    vary: tuple[float, float] = (-0.08, 0.08)  # each axis of each case is this much shorter or longer


PRESETS = {
    # These two lie just below multiples of 8, so that a network's patch pads little and holds every case: its cost on a CPU.
    "smoke": Preset((24, 24, 32), (5.0, 3.75, 4.1), (15, 3, 2), 2, 10.0, vary=(-0.08, 0.0)),
    "demo": Preset((32, 32, 48), (3.2, 2.6, 2.65), (126, 36, 12), 2, 14.0, vary=(-0.08, 0.0)),
    # Sizes vary so much that windows of the planned patch, 64 x 128 x 192, half overlapping, are 2.4 a case, as for the quiz.
    "quiz": Preset((59, 117, 180), (2.0, 0.7305, 0.7305), (63, 18, 12), 1, 22.0, vary=(-0.255, 0.255)),
    # As many millimetres as "quiz" on the voxels of "demo": cases of one window and of several for a model of "demo".
    "varied": Preset((37, 33, 50), (3.2, 2.6, 2.65), (63, 18, 12), 2, 14.0, vary=(-0.255, 0.255)),
    "abdomen": Preset((200, 512, 512), (2.0, 0.7305, 0.7305), (3, 3, 1), 1, 22.0, vary=(0.0, 0.0)),
    # As many millimetres as "abdomen" on the voxels of "demo": what a model of "demo" has to learn to find its way in one.
    "torso": Preset((125, 144, 141), (3.2, 2.6, 2.65), (40, 3, 1), 1, 14.0),
}


@dataclass(frozen=True)
class PhantomCase:
    name: str
    split: str
    subtype: int
    index: int  # within its split


def share_out(total: int, weights: tuple[int, ...]) -> list[int]:
    """Split `total` by `weights`, largest remainders first; at least one each where total allows."""
    exact = [total * w / sum(weights) for w in weights]
    counts = [max(int(e), 1) if total >= len(weights) else int(e) for e in exact]
    while sum(counts) != total:
        step = 1 if sum(counts) < total else -1
        counts[int(np.argmax([step * (e - c) for e, c in zip(exact, counts)]))] += step
    return counts


def list_cases(counts: tuple[int, int, int], seed: int) -> list[PhantomCase]:
    """All cases, numbered in an order that tells neither split nor subtype."""
    drawn = [(split, subtype) for split, total in zip(SPLITS, counts)
             for subtype, n in enumerate(share_out(total, PROPORTIONS[split])) for _ in range(n)]
    numbers = np.random.default_rng([seed, len(drawn)]).permutation(len(drawn)) + 1
    cases, used = [], dict.fromkeys(SPLITS, 0)
    for (split, subtype), number in zip(drawn, numbers):
        name = f"quiz_{number:03d}" if split == "test" else f"quiz_{subtype}_{number:03d}"
        cases.append(PhantomCase(name, split, subtype, used[split]))
        used[split] += 1
    return cases


def case_files(out: Path, case: PhantomCase) -> tuple[Path, Path]:
    """Image and mask; the test set's masks lie apart."""
    if case.split == "test":
        return out / "test" / f"{case.name}_0000.nii.gz", out / "test_truth" / f"{case.name}.nii.gz"
    folder = out / case.split / f"subtype{case.subtype}"
    return folder / f"{case.name}_0000.nii.gz", folder / f"{case.name}.nii.gz"


def block_mean(volume: np.ndarray, factor: int) -> np.ndarray:
    if factor == 1:
        return volume
    z, y, x = (n // factor for n in volume.shape)
    return volume.reshape(z, factor, y, factor, x, factor).mean((1, 3, 5))


def render(preset: Preset, subtype: int, rng: np.random.Generator, drawn: Drawn | None = None,
           manner: Manner = PLAIN) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One patient: image (HU, float32), labels (uint8), both (z, y, x), and spacing (z, y, x) in mm. drawn: of the cues, which then decide all."""
    scanner, (paint, noise) = SCANNERS[manner.scanner], WORLDS[manner.world]
    spacing = np.array(preset.spacing)
    shape = [int(round(n * f)) for n, f in zip(preset.shape, 1 + rng.uniform(*preset.vary, 3))]
    fine = preset.supersample
    canvas = Canvas([n * fine for n in shape], spacing / fine, centre=rng.normal(0, 2.0, 3))
    (region, distance), lesions = paint(canvas, rng, subtype, preset.radius_mm, drawn, scanner)
    labels = np.zeros(canvas.hu.shape, np.uint8)
    labels[region][distance < 0] = 1
    for lesion in lesions:
        labels[lesion.region][lesion.distance < 0] = 2
    image = scanner.blurred(block_mean(canvas.hu, fine))
    image += preset.noise_hu * scanner.noise * rng.uniform(0.8, 1.25) * noise(image.shape, rng)
    shares = np.stack([block_mean((labels == k).astype(np.float32), fine) for k in range(3)])
    return np.clip(image, -1024, 3071), shares.argmax(0).astype(np.uint8), spacing


def place_in_world(array: np.ndarray, spacing: np.ndarray, index: int, rng: np.random.Generator) -> sitk.Image:
    """Volume as an image; one case in 12 is stored turned by 180 degrees in-plane, one in 6 is oblique."""
    direction = np.eye(3)
    if index % 12 == 5:
        array, direction = array[:, ::-1, ::-1], np.diag([-1.0, -1.0, 1.0])
    elif index % 6 == 2:
        a, b = np.deg2rad(rng.uniform(-9, 9, 2))
        tilt = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
        roll = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
        direction = tilt @ roll
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing(spacing[::-1].tolist())
    image.SetDirection(direction.ravel().tolist())
    image.SetOrigin(rng.uniform(-200, 200, 3).round(3).tolist())
    return image


def case_cues(preset_name: str, seed: int, case: PhantomCase) -> Drawn:
    """Of one case of a data set with cues; its subtype is its texture."""
    return draw(np.random.default_rng([seed, list(PRESETS).index(preset_name), SPLITS.index(case.split), case.index, 1]), case.subtype)


def write_case(out: Path, preset_name: str, seed: int, manner: Manner, case: PhantomCase) -> None:
    """Render and write one case; image and mask share one geometry. Nothing is done where both files stand."""
    image_file, mask_file = case_files(out, case)
    if image_file.is_file() and mask_file.is_file():
        return
    rng = np.random.default_rng([seed, list(PRESETS).index(preset_name), SPLITS.index(case.split), case.index])
    image, labels, spacing = render(PRESETS[preset_name], case.subtype, rng, case_cues(preset_name, seed, case) if manner.cues else None, manner)
    voxels = image.astype(np.float64) if case.index % 16 == 9 else np.rint(image).astype(np.int16)
    values = np.array([0, ALMOST_ONE, 2], np.float32)[labels] if case.index % 4 else labels
    world = rng.bit_generator.state
    for array, file in ((voxels, image_file), (values, mask_file)):
        rng.bit_generator.state = world
        with atomic_write(file) as temporary:
            sitk.WriteImage(place_in_world(array, spacing, case.index, rng), str(temporary), True, 1)


def make_phantom(out: str | os.PathLike, preset: str = "demo", seed: int = 0, counts: tuple[int, int, int] | None = None,
                 processes: int | None = None, manner: Manner = PLAIN) -> list[PhantomCase]:
    """Write the data set into `out`, skipping the cases that stand; `counts` = (train, validation, test) overrides the preset's.

    With cues, classes of twelve kinds, drawn independently (phantom_cues.py), go into cues.csv; the subtype is that of the texture.

    Raises ValueError when `out` holds a data set made with other settings, or data that this program did not make.
    """
    out = Path(out)
    counts = tuple(counts or PRESETS[preset].cases)
    settings = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(PRESETS[preset]).items()}
    made_with = {"preset": preset, "seed": seed, "cases": list(counts), "settings": settings, **manner.settings()}
    manifest = out / "phantom.json"
    if not is_there(manifest):
        refuse_other_data(out, [FILE])
    elif load_json(manifest, AnyObject) != made_with:
        raise ValueError(f"{manifest} was made with other settings. Choose another folder or delete {out}.")
    _write_once(out / SYNTHETIC_MARKER, "Computer-generated phantoms, not patients. See phantom.json for how they were made.\n")
    if not is_there(manifest):
        save_json(made_with, manifest)
    cases = list_cases(counts, seed)
    if manner.cues:
        _write_once(out / "cues.csv", [["case", *CUES], *([case.name, *(drawn.classes[cue] for cue in CUES)]
                                                               for case in cases for drawn in [case_cues(preset, seed, case)])])
    run_parallel(partial(write_case, out, preset, seed, manner), cases, f"SYNTHETIC {preset}", processes)
    truth = sorted((case.name, case.subtype) for case in cases if case.split == "test")
    _write_once(out / "test_truth" / "subtypes.csv", [["case", "subtype"], *truth])
    return cases


def _write_once(file: Path, content: str | list[Sequence[object]]) -> None:
    """Unless it stands: a rerun leaves times as they are, by which later stages tell whether the data changed. content: text, or a table's rows."""
    if file.is_file():
        return
    if isinstance(content, list):
        write_rows(file, content)
        return
    with atomic_write(file) as temporary:
        temporary.write_text(content, encoding="utf-8")


def is_plain_phantom(data: Path) -> bool:
    """Whether a folder's data were made here, in the plain manner: other cues, worlds and scanners are named in phantom.json."""
    manifest = data / "phantom.json"
    if not is_there(manifest):
        return False
    made_with = load_json(manifest, AnyObject)
    return made_with.get("preset") in PRESETS and not {field.name for field in fields(Manner)} & made_with.keys()


@script
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("out", type=Path, help="folder to fill, which must not hold other data; cases of a former run are kept")
    parser.add_argument("--preset", choices=PRESETS, default="demo")
    parser.add_argument("--seed", type=whole_number(0, 2**32 - 1), default=0)
    for split, place in zip(SPLITS, range(3)):
        parser.add_argument(f"--{split}", type=whole_number(0), metavar="N", help=f"number of {split} cases instead of the preset's")
    parser.add_argument("--cues", action="store_true", help="classes of twelve kinds on the same images, listed in OUT/cues.csv")
    parser.add_argument("--world", choices=WORLDS, default="abdomen", help="painter (default abdomen); cells: another one, with --cues")
    parser.add_argument("--scanner", choices=SCANNERS, default="standard", help="other: noisier, softer, thicker slices, earlier phase")
    parser.add_argument("-np", "--processes", type=whole_number(0), help="default: one per core, at most 8")
    args = parser.parse_args(arguments)
    asked = (args.train, args.validation, args.test)
    counts = tuple(p if a is None else a for a, p in zip(asked, PRESETS[args.preset].cases))
    cases = make_phantom(args.out, args.preset, args.seed, counts, args.processes, Manner(args.cues, args.world, args.scanner))
    print(f"{len(cases)} SYNTHETIC cases in {args.out}")


if __name__ == "__main__":
    main()
