"""Checks of one CT with its mask: file, voxels, labels, geometry, and whether the mask lies on soft tissue at all."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from data_prep.quiz_layout import Case
from nnunetv2.configuration import available_cores
from nnunetv2.imageio.geometry import grid_difference
from nnunetv2.imageio.image_arrays import to_sitk
from nnunetv2.imageio.label_values import shown_values, unexpected_labels
from nnunetv2.imageio.mask_statistics import MaskStatistics, mask_statistics, outliers
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, read_volume
from nnunetv2.preprocessing.intensity_check import constant_image
from nnunetv2.utilities.data_description import THE_QUIZ, DataDescription
from nnunetv2.utilities.errors import InputError, name_some
from nnunetv2.utilities.parallel import in_processes

STRAY_SHARE = 0.05  # of a mask on other tissue, such as gas and bone; a stent or calcification is far less than this share
KEPT_SHARE = 0.9  # of a mask's volume that must still lie in the image after resampling


@dataclass
class Inspection:
    """What one case holds, sizes in array order (z, y, x); zeros where `problems` kept it from being read."""

    case: Case
    problems: list[str] = field(default_factory=list)
    oddities: list[str] = field(default_factory=list)  # what is warned of
    shape: tuple[int, ...] = (0, 0, 0)
    spacing: tuple[float, ...] = (0.0, 0.0, 0.0)  # mm
    volumes_ml: dict[str, float] = field(default_factory=dict)  # of the data's structures
    statistics: MaskStatistics | None = None  # intensities below the whole mask
    digest: str | None = None  # of the voxels: equal for copies, however they are stored


def read_labels(path: Path, image: np.ndarray, image_properties: dict, fix_geometry: bool = False, labels: Sequence[int] = THE_QUIZ.label_values) -> np.ndarray:
    """The mask as uint8 (z, y, x) on the image's grid; InputError that says what is wrong with it.

    With `fix_geometry` a mask on another grid is resampled in world space (nearest neighbour), if it still lies in the image and no label gets lost.
    """
    values, properties = SimpleITKIO().read_seg(path)
    if unexpected := unexpected_labels(values, labels):
        raise InputError(f"{path} holds {shown_values(unexpected)}; a mask may hold {in_words(labels)}. Correct the mask")
    mask = values[0].astype(np.uint8)
    difference = grid_difference(image_properties["sitk_stuff"], properties["sitk_stuff"], image.shape, mask.shape)
    if difference is None:
        return mask
    if not fix_geometry:
        raise InputError(f"{path} {difference} (its image); see --fix-geometry")
    target, source = to_sitk(image, image_properties), to_sitk(mask, properties)
    moved = sitk.GetArrayFromImage(sitk.Resample(source, target, sitk.Transform(), sitk.sitkNearestNeighbor, 0))
    before, after = ((a > 0).sum() * np.prod(p["spacing"]) for a, p in ((mask, properties), (moved, image_properties)))
    if after < KEPT_SHARE * before:
        raise InputError(f"{path} {difference} (its image); only {after / max(before, 1e-9):.0%} of it lies in the image, so resampling cannot help")
    if lost := sorted(set(np.unique(mask).tolist()) - set(np.unique(moved).tolist()) - {0}):
        raise InputError(f"{path} {difference} (its image); resampling leaves no voxel of label(s) {', '.join(map(str, lost))}. "
                         "Draw the mask on its image's grid, or leave the case out")
    return moved


def in_words(labels: Sequence[int]) -> str:
    """`0, 1 and 2`."""
    return f"{', '.join(map(str, labels[:-1]))} and {labels[-1]}"


def off_tissue(image: np.ndarray, foreground: np.ndarray, description: DataDescription) -> str | None:
    """Says so when the mask covers gas or bone: header and content then disagree, which no header comparison can see.

    Other data than the quiz's say in their description which intensities their tissue has; without that nothing is checked.
    """
    if not (tissue := description.content.get("tissue")):
        return None
    values = image[foreground]
    stray = float(np.mean((values < tissue[0]) | (values > tissue[1])))
    if stray <= STRAY_SHARE:
        return None
    other = "gas or bone" if description.is_quiz else f"what is below {tissue[0]:g} or above {tissue[1]:g}"
    return (f"{stray:.0%} of the {description.whole.word} mask lies on {other} (mean {values.mean():.0f}{' HU' if description.is_ct else ''}): "
            "image and mask do not belong together; correct one of them")


def inspect_case(case: Case, fix_geometry: bool = False, description: DataDescription = THE_QUIZ) -> Inspection:
    """Read and check one case; what is wrong is collected, not raised."""
    found = Inspection(case)
    try:
        image, properties = read_volume(case.image)
    except (OSError, ValueError) as error:
        found.problems.append(str(error))
        return found
    found.shape, found.spacing = image.shape, tuple(properties["spacing"])
    if oddity := constant_image(image[None]):
        found.oddities.append(f"{case.image}: {oddity}. Export it again, or leave the case out.")
    else:
        digest = hashlib.blake2b(str(image.shape).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(image, np.float32).data)
        found.digest = digest.hexdigest()
    if case.mask is None:
        return found
    try:
        labels = read_labels(case.mask, image, properties, fix_geometry, description.label_values)
    except (OSError, ValueError) as error:
        found.problems.append(str(error))
        return found
    voxel_ml = float(np.prod(found.spacing)) / 1000
    found.volumes_ml = {key: float(np.isin(labels, structure.labels).sum()) * voxel_ml for key, structure in description.structures.items()}
    found.statistics = mask_statistics(image, labels > 0)
    if not labels.any() and description.whole != description.lesion:  # a case without the lesion may be healthy, one without the organ shows nothing
        found.problems.append(f"{case.mask}: no {description.whole.word} in it; correct the mask, or leave the case out")
    elif labels.any() and (stray := off_tissue(image, labels > 0, description)):
        found.problems.append(f"{case.mask}: {stray}")
    return found


def copies(inspections: list[Inspection]) -> list[str]:
    """A warning for each image that is there several times under other names: a model would be judged by what it was trained on.

    Copies of one patient in one split stay together in folds, and copies in the test set are trained on by nobody.
    """
    of_image: dict[str, list[Case]] = defaultdict(list)
    for found in inspections:
        if found.digest is not None:
            of_image[found.digest].append(found.case)
    warnings = []
    for cases in of_image.values():
        splits, patients = sorted({case.split for case in cases}), {case.patient for case in cases}
        kept_together = splits == ["test"] or len(splits) == 1 and len(patients) == 1 and None not in patients
        if len(cases) > 1 and not kept_together:
            where = f"is in {' and '.join(splits)}" if len(splits) > 1 else f"is in {splits[0]} {len(cases)} times, and folds may part its copies"
            warnings.append(f"the same image {where}: {name_some([str(case.image) for case in cases])}; a model would be judged by what it was trained on. Keep one")
    return warnings


def inspect_all(cases: list[Case], fix_geometry: bool = False, processes: int | None = None, description: DataDescription = THE_QUIZ) -> list[Inspection]:
    return run_parallel(partial(inspect_case, fix_geometry=fix_geometry, description=description), cases, "checking cases", processes)


def run_parallel(task: Callable, items: Iterable, title: str, processes: int | None = None) -> list:
    """[task(item) for item in items] over processes (default: one per core, at most 8), with a progress bar.

    Raises CasesFailed that names the items whose worker was killed or whose task failed; the others were done.
    """
    items = list(items)
    processes = min(processes or available_cores(), 8, max(len(items), 1))
    if processes == 1:
        return [task(item) for item in tqdm(items, desc=title, unit="case")]
    names = [str(getattr(item, "name", item)) for item in items]
    times = Counter(names)
    keys = [name if times[name] == 1 else f"{name} ({number})" for number, name in enumerate(names)]  # an id may be there twice
    return list(in_processes(task, {key: (item,) for key, item in zip(keys, items)}, processes, title).values())


def summary_table(inspections: list[Inspection], description: DataDescription = THE_QUIZ) -> str:
    """One line a split: cases, classes, ranges of size and spacing (z, y, x), volumes as min / median / max."""
    shown = description.drawn
    classes = "subtypes" if description.is_quiz else description.task_words if description.task else "classes"
    rows = [["split", "n", classes, "size (voxels)", "spacing (mm)", *(f"{structure.word} (ml)" for structure in shown)]]
    notes = [""]  # below each row
    for split in dict.fromkeys(found.case.split for found in inspections):
        group = [found for found in inspections if found.case.split == split]
        labelled = [found for found in group if found.case.mask is not None]
        subtypes = sorted({found.case.subtype for found in group if found.case.subtype is not None})
        counts = ", ".join(f"{s}: {sum(found.case.subtype == s for found in group)}" for s in subtypes) or "-"
        rows.append([split, str(len(group)), counts, _ranges([f.shape for f in group], 0), _ranges([f.spacing for f in group], 3),
                     *(_spread([f.volumes_ml.get(structure.key, 0.0) for f in labelled]) for structure in shown)])
        lesion, whole = description.lesion, description.whole
        without = [] if lesion is None else [f.case.name for f in labelled if (whole == lesion or f.volumes_ml.get(whole.key)) and f.volumes_ml.get(lesion.key) == 0]
        notes.append(f"\n  note: {len(without)} without a {lesion.word}: {', '.join(without[:8])}{' ...' if len(without) > 8 else ''}" if without else "")
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(cell.rjust(width) if place == 1 else cell.ljust(width) for place, (cell, width) in enumerate(zip(row, widths))).rstrip() + note
                     for row, note in zip(rows, notes))


def _ranges(rows: list[tuple[float, ...]], digits: int) -> str:
    pairs = [(f"{min(column):.{digits}f}", f"{max(column):.{digits}f}") for column in zip(*rows)]
    return " x ".join(low if low == high else f"{low}-{high}" for low, high in pairs)


def _spread(values: list[float]) -> str:
    return f"{min(values):.1f} / {np.median(values):.1f} / {max(values):.1f}" if values else "-"


def case_warnings(inspections: list[Inspection], description: DataDescription = THE_QUIZ) -> list[str]:
    """All that is warned of."""
    return [*(line for found in inspections for line in found.oddities), *copies(inspections), *mask_warnings(inspections, description)]


def mask_warnings(inspections: list[Inspection], description: DataDescription = THE_QUIZ) -> list[str]:
    """Cases whose mask lies on other tissue than the others' do; see mask_statistics. Only CT numbers are comparable between cases."""
    if not description.is_ct:
        return []
    return outliers({found.case.name: found.statistics for found in inspections})


def problem_list(problems: list[str]) -> str:
    return "\n".join([f"{len(problems)} problem(s):", *(f"  {problem}" for problem in problems)])
