"""Rows: preprocessing. Both sides preprocess the same files with the same plans; each reads what the other stored."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2.preprocessing.case_store import load_case, save_case
from nnunetv2.preprocessing.cropping import crop_to_nonzero
from nnunetv2.preprocessing.normalization import SCHEMES, normalize
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.preprocessing.resampling import compute_new_shape, resample_data_or_seg_to_shape
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tests.conformance.bench import Bench, Row, agreeing, equal, within, skipped
from tests.conformance.cases import volume
from tests.conformance.datasets import files_of, real, synthetic

DATA_BOUND = 1e-4  # of normalised intensities
NORMALISATION_BOUND = 1e-6

def run_ours(plans: dict[str, Any], dataset_json: dict[str, Any], configuration: str, images: list[str], seg: str | None):
    manager = PlansManager(plans)
    return DefaultPreprocessor().run_case(images, seg, manager, manager.get_configuration(configuration), dataset_json)


def case_rows(bench: Bench, folder: Path, plans: dict[str, Any], case: str, configuration: str) -> Iterator[Row]:
    dataset_json = json.loads((folder / "dataset.json").read_text())
    images, seg_file = files_of(folder, case)
    theirs = bench.upstream.call("upstream_preprocessing:run_case", plans=plans, dataset_json=dataset_json,
                                 configuration=configuration, images=images, seg=seg_file)
    data, seg, properties = run_ours(plans, dataset_json, configuration, images, seg_file)
    what = f"{folder.name} {case}, {configuration}"
    yield within(f"preprocessed data, {what}", data, theirs["data"], DATA_BOUND)
    yield agreeing(f"preprocessed segmentation, {what}", seg, theirs["seg"])
    mine, reference = ({k: v for k, v in p.items() if k != "class_locations"} for p in (properties, theirs["properties"]))
    mine["sitk_stuff"] = {k: v for k, v in mine["sitk_stuff"].items() if k != "forms"}  # ours alone: the NIfTI header's two orientations
    yield equal(f"properties, {what}", {k: mine.get(k) for k in reference}, reference)
    yield from location_rows(what, properties["class_locations"], theirs["properties"]["class_locations"],
                             same_seg=np.array_equal(seg, theirs["seg"]))


def location_rows(what: str, ours: dict, theirs: dict[str, np.ndarray], same_seg: bool) -> Iterator[Row]:
    """Candidate centres of foreground patches: the same voxels where the segmentations agree, as many otherwise."""
    mine = {str(k): np.asarray(v) for k, v in ours.items()}
    if same_seg:
        identical = mine.keys() == theirs.keys() and all(np.array_equal(mine[k], theirs[k]) for k in theirs)
        yield Row(f"class locations, {what}", f"{ {k: len(v) for k, v in mine.items()} }", f"{ {k: len(v) for k, v in theirs.items()} }",
                  "0" if identical else "differ", "equal", identical)
    else:
        yield equal(f"class locations: number a class, {what}", {k: len(v) for k, v in mine.items()},
                    {k: len(v) for k, v in theirs.items()}, note="segmentations differ in single voxels")


def check_cases(bench: Bench) -> Iterator[Row]:
    for folder, plans, case in synthetic(bench):
        yield from case_rows(bench, folder, plans, case, "3d_fullres")


def check_2d_and_lowres(bench: Bench) -> Iterator[Row]:
    folder, plans, case = next(synthetic(bench))
    yield from case_rows(bench, folder, plans, case, "2d")
    coarse = json.loads(json.dumps(plans))
    coarse["configurations"]["3d_lowres"] = {"inherits_from": "3d_fullres", "data_identifier": "lowres", "spacing": [3.1, 1.7, 1.7]}
    yield from case_rows(bench, folder, coarse, case, "3d_lowres")


def check_real_cts(bench: Bench) -> Iterator[Row]:
    cases = list(real(bench))
    if not cases:
        yield skipped("REAL CTs", "no folder of real CTs here; name one with --real-cts")
    for folder, plans, case in cases[1:2] if bench.reduced else cases:
        yield from case_rows(bench, folder, plans, case, "3d_fullres")


def check_storage(bench: Bench) -> Iterator[Row]:
    """.b2nd and .pkl files of either side, read by the other."""
    folder, plans, case = next(synthetic(bench))
    dataset_json = json.loads((folder / "dataset.json").read_text())
    images, seg_file = files_of(folder, case)
    data, seg, properties = run_ours(plans, dataset_json, "3d_fullres", images, seg_file)
    ours, theirs = bench.folder / "store_ours", bench.folder / "store_upstream"
    theirs.mkdir(exist_ok=True)
    save_case(data, seg, properties, ours, case, plans["configurations"]["3d_fullres"]["patch_size"])
    read = bench.upstream.call("upstream_preprocessing:load_case", folder=ours, case=case)
    yield equal("stored here, read upstream: files", sorted(p.name for p in ours.iterdir()),
                [f"{case}.b2nd", f"{case}.pkl", f"{case}_seg.b2nd"])
    yield within("stored here, read upstream: data", data, read["data"], 0.0)
    yield agreeing("stored here, read upstream: segmentation", seg, read["seg"], 1.0)
    yield equal("stored here, read upstream: properties", {k: v for k, v in properties.items() if k != "class_locations"},
                {k: v for k, v in read["properties"].items() if k != "class_locations"})
    yield from location_rows("stored here, read upstream", properties["class_locations"], read["properties"]["class_locations"], True)

    bench.upstream.call("upstream_preprocessing:save_case", plans=plans, dataset_json=dataset_json, configuration="3d_fullres",
                        images=images, seg=seg_file, target=theirs / case)
    reference = bench.upstream.call("upstream_preprocessing:load_case", folder=theirs, case=case)
    read_data, read_seg, read_properties = load_case(theirs, case)
    yield within("stored upstream, read here: data", read_data[:], reference["data"], 0.0)
    yield agreeing("stored upstream, read here: segmentation", read_seg[:], reference["seg"], 1.0)
    yield equal("stored upstream, read here: array types", [str(read_data.dtype), str(read_seg.dtype)], ["float32", "int16"])
    yield from location_rows("stored upstream, read here", read_properties["class_locations"], reference["properties"]["class_locations"], True)


def check_normalisation(bench: Bench) -> Iterator[Row]:
    image, labels = volume((20, 24, 28), seed=5, air_margin=4)
    image *= 3  # beyond both percentiles
    seg = labels.astype(np.int16)
    seg[image == 0] = -1
    intensities = {"mean": 74.9, "std": 44.1, "percentile_00_5": -56.0, "percentile_99_5": 180.0, "min": -300.0, "max": 500.0, "median": 77.0}
    rgb = np.random.default_rng(0).integers(0, 256, image.shape).astype(np.float32)
    for scheme in SCHEMES:
        for use_mask in (False, True) if scheme == "ZScoreNormalization" else (False,):
            source = rgb if scheme == "RGBTo01Normalization" else image
            theirs = bench.upstream.call("upstream_preprocessing:normalise", scheme=scheme, image=source, seg=seg, use_mask=use_mask,
                                         intensities=intensities)["image"]
            ours = source.copy()
            normalize(ours, scheme, use_mask, seg, intensities)
            yield within(f"{scheme}, non-zero mask {use_mask}", ours, theirs, NORMALISATION_BOUND)


def check_crop(bench: Bench) -> Iterator[Row]:
    image, labels = volume((22, 26, 30), seed=9, air_margin=3)
    image[5:8, 5:8, 22:25] = 0  # a hole in unlabelled tissue, filled by both
    image[3:8, 5, 5] = 0  # a channel that leads outside, not filled
    two = np.stack([image, np.roll(image, 2, axis=2)])
    for name, data, seg in (("one channel", image[None], labels[None].astype(np.int16)), ("two channels", two, labels[None].astype(np.int16)),
                            ("without segmentation", image[None], None)):
        theirs = bench.upstream.call("upstream_preprocessing:crop", data=data, seg=seg)
        cropped, cropped_seg, box = crop_to_nonzero(data, seg)
        yield equal(f"crop to non-zero, box, {name}", box, theirs["box"])
        yield within(f"crop to non-zero, data, {name}", cropped, theirs["data"], 0.0)
        yield agreeing(f"crop to non-zero, segmentation, {name}", cropped_seg, theirs["seg"], 1.0)


RESAMPLINGS = [
    ("isotropic up", (24, 26, 28), (31, 40, 37), (2.0, 1.5, 1.5), (1.5, 1.0, 1.1)),
    ("isotropic down", (40, 44, 48), (25, 30, 29), (1.0, 1.0, 1.0), (1.6, 1.5, 1.65)),
    ("separate z", (12, 50, 52), (17, 70, 66), (6.0, 0.8, 0.8), (4.2, 0.6, 0.63)),
    ("separate z in the target", (40, 40, 40), (10, 45, 44), (1.2, 1.2, 1.2), (5.0, 1.0, 1.1)),
    ("separate z, z unchanged", (12, 50, 52), (12, 70, 66), (6.0, 0.8, 0.8), (6.0, 0.6, 0.63)),
    ("coarse axis last", (50, 52, 12), (70, 66, 17), (0.8, 0.8, 6.0), (0.6, 0.63, 4.2)),
    ("two coarse axes", (12, 12, 60), (16, 16, 70), (4.0, 4.0, 0.9), (3.0, 3.0, 0.8)),
]


def check_resampling(bench: Bench) -> Iterator[Row]:
    for name, shape, target, current, new in RESAMPLINGS[::2] if bench.reduced else RESAMPLINGS:
        image, labels = volume(shape, seed=11)
        image = (image - image.mean()) / image.std()
        spacings = {"current": current, "new": new}
        for what, array, options in (
                ("data, cubic", np.stack([image, image[::-1]]), {"is_seg": False, "order": 3}),
                ("logits, linear", np.stack([image, -image]), {"is_seg": False, "order": 1}),
                ("segmentation, order 1", labels[None].astype(np.int16) - (image[None] > 2.5), {"is_seg": True, "order": 1})):
            options = {**options, "order_z": 0, "force_separate_z": None}
            array = np.ascontiguousarray(array)
            theirs = bench.upstream.call("upstream_preprocessing:resample", data=array, shape=target, **spacings, **options)["data"]
            ours = np.asarray(resample_data_or_seg_to_shape(array, target, current, new, **options))
            yield agreeing(f"resample {what}, {name}", ours, theirs) if options["is_seg"] else \
                within(f"resample {what}, {name}", ours, theirs, DATA_BOUND)
        yield equal(f"new shape, {name}", [int(n) for n in compute_new_shape(shape, current, new)],
                    bench.upstream.call("upstream_preprocessing:new_shape", shape=shape, current=current, new=new))


def check_resampling_speed(bench: Bench) -> Iterator[Row]:
    """On purpose different: separable matrices instead of skimage's resize. The row shows what that costs and gains."""
    shape, target = ((40, 60, 60), (60, 90, 90)) if bench.reduced else ((59, 117, 180), (80, 150, 230))
    image, _ = volume(shape, seed=2)
    image = ((image - image.mean()) / image.std())[None]
    spacings = ((2.0, 0.73, 0.73), (1.5, 0.57, 0.57))
    options = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    theirs = bench.upstream.call("upstream_preprocessing:resample", data=image, shape=target, current=spacings[0], new=spacings[1], **options)
    start = time.monotonic()
    ours = resample_data_or_seg_to_shape(image, target, *spacings, **options)
    seconds = time.monotonic() - start
    yield within("resample by matrix products instead of skimage.resize (on purpose)", ours, theirs["data"], DATA_BOUND,
                 note=f"{shape} to {target}: {seconds:.2f} s here, {theirs['seconds']:.2f} s upstream")


CHECKS = [check_cases, check_2d_and_lowres, check_real_cts, check_storage, check_normalisation, check_crop, check_resampling,
          check_resampling_speed]
