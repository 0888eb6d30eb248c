"""The dataset fingerprint: what planning needs to know of the training cases, and nothing else."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from nnunetv2 import paths
from nnunetv2.imageio.geometry import off_its_image
from nnunetv2.imageio.label_values import undeclared_labels
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.preprocessing.cropping import bounding_box
from nnunetv2.utilities.parallel import in_threads
from nnunetv2.utilities.data_manifest import hash_cases, read_manifest, record
from nnunetv2.utilities.dataset_files import example_image, get_filenames_of_train_images_and_targets, undeclared_channels
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.errors import name_most, name_some
from nnunetv2.utilities.file_shapes import Fingerprint, RawDatasetJson
from nnunetv2.utilities.files import load_json, save_json
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.manifest import changes

N_SAMPLES = 100_000_000  # foreground voxels drawn over all cases
SEED = 1234
PERCENTILES = {"percentile_00_5": 0.5, "median": 50.0, "percentile_99_5": 99.5}


class CaseFingerprint(NamedTuple):
    spacing: list[float]  # z, y, x, mm
    shape: tuple[int, ...]  # of the box of non-zero voxels
    relative_size: float  # of that box to the whole image
    samples: list[np.ndarray]  # one array of foreground intensities a channel


class DatasetFingerprintExtractor:
    """Reads every training case once, in threads: reading and sampling leave the interpreter free."""

    def __init__(self, dataset_name_or_id: int | str, num_processes: int | None = None, verbose: bool = False):
        self.dataset_name = maybe_convert_to_dataset_name(dataset_name_or_id)
        self.num_threads = num_processes
        self.verbose = verbose

    @staticmethod
    def collect_foreground_intensities(segmentation: np.ndarray, images: np.ndarray, seed: int = SEED,
                                       num_samples: int = 10_000) -> tuple[list[np.ndarray], list[dict[str, float]]]:
        """Of each channel of `images` (C, Z, Y, X): `num_samples` values where `segmentation` (1, Z, Y, X) is above 0, drawn with replacement, and
        statistics of all of them; none and NaN without foreground."""
        samples = foreground_samples(images, segmentation[0] > 0, num_samples, seed)
        statistics = []
        for channel in images:
            values = channel[segmentation[0] > 0]
            found = intensity_properties(values) if values.size else dict.fromkeys(("mean", "min", "max", *PERCENTILES), float("nan"))
            statistics.append({name: value for name, value in found.items() if name != "std"})
        return samples, statistics

    def run(self, overwrite_existing: bool = False) -> dict[str, Any]:
        """Write dataset_fingerprint.json and return its content; a file already there is returned as it is, if it is of these cases."""
        preprocessed = paths.nnUNet_preprocessed / self.dataset_name
        path = preprocessed / "dataset_fingerprint.json"
        keep = path.is_file() and not overwrite_existing
        made_from = read_manifest(preprocessed).get("fingerprint")
        if keep and (made_from is None or paths.path_if_set("nnUNet_raw") is None):
            print(f"{path} exists and is kept; --clean recomputes it.")
            return load_json(path, Fingerprint)
        raw_folder = paths.nnUNet_raw / self.dataset_name
        dataset_json = load_json(raw_folder / "dataset.json", RawDatasetJson)
        cases = cases_to_learn_from(get_filenames_of_train_images_and_targets(raw_folder, dataset_json), dataset_json)
        if keep:
            found = changes(made_from, hash_cases(preprocessed, cases, self.num_threads))
            if not found:
                print(f"{path} exists and is kept; --clean recomputes it.")
                return load_json(path, Fingerprint)
            print(f"{path} is recomputed: {len(found)} training case(s) changed since.")
        reader = determine_reader_writer_from_dataset_json(dataset_json, example_image(cases))()
        analyze = partial(analyze_case, reader, n_samples=N_SAMPLES // len(cases), n_channels=len(dataset_json["channel_names"]),
                          labels=LabelManager(dataset_json["labels"], dataset_json.get("regions_class_order")).labels_of_masks)
        if self.verbose:
            print(f"Fingerprint of {len(cases)} cases, {N_SAMPLES // len(cases)} foreground voxels each.")
        jobs = {case: (files["images"], files["label"]) for case, files in cases.items()}
        results = list(in_threads(analyze, jobs, self.num_threads, "fingerprint", anywhere=True).values())
        intensities = {}
        for channel, name in enumerate(dataset_json["channel_names"].values()):
            samples = np.concatenate([result.samples[channel] for result in results])
            if samples.size == 0:
                raise ValueError(f"{raw_folder}: no training case has foreground, so channel {name!r} has no intensities to plan from. Check labelsTr and "
                                 "the labels of dataset.json: all masks are background.")
            intensities[str(channel)] = intensity_properties(samples)
        fingerprint = {
            "spacings": [result.spacing for result in results],
            "shapes_after_crop": [list(result.shape) for result in results],
            "foreground_intensity_properties_per_channel": intensities,
            "median_relative_size_after_cropping": float(np.median([result.relative_size for result in results])),
        }
        hashes = hash_cases(preprocessed, cases, self.num_threads)
        save_json(fingerprint, path)
        record(preprocessed, fingerprint=hashes)
        return fingerprint


def cases_to_learn_from(cases: dict[str, dict], dataset_json: dict) -> dict[str, dict]:
    """`cases` without those of dataset.json's `holdout`, which may monitor a training but not shape it."""
    holdout = set(dataset_json.get("holdout", []))
    if unknown := sorted(holdout - cases.keys()):
        raise ValueError(f"dataset.json, key 'holdout': no training image has the name(s) {name_most(unknown)}.")
    kept = {case: files for case, files in cases.items() if case not in holdout}
    if not kept:
        raise ValueError(f"No training case is left: {len(cases)} found, {len(holdout)} held out.")
    return kept


def analyze_case(reader, image_files: list[str], label_file: str, n_samples: int, n_channels: int | None = None,
                 labels: Sequence[int] | None = None) -> CaseFingerprint:
    """Geometry and `n_samples` foreground intensities a channel, drawn with replacement so that each case counts alike.

    A case without foreground adds no samples. Foreground outside the box of non-zero voxels does not count, as it does not
    in preprocessing. n_channels, labels: what dataset.json declares (None: not known); ValueError where the files hold something else.
    """
    images, properties = reader.read_images(image_files)  # (C, Z, Y, X)
    seg, seg_properties = reader.read_seg(label_file)  # (1, Z, Y, X)
    for file, array in ((image_files, images), (label_file, seg)):
        if np.isnan(array).any():
            raise ValueError(f"{file} contains NaN; export the case again, or leave it out.")
    if n_channels is not None and (problem := undeclared_channels(len(images), n_channels)):
        raise ValueError(f"{name_some(image_files)}: {problem}.")
    if problem := off_its_image(label_file, properties, seg_properties, images.shape[1:], seg.shape[1:]):
        raise ValueError(problem)
    if labels is not None and (problem := undeclared_labels(seg, labels, label_file)):
        raise ValueError(problem)
    box = tuple(slice(start, stop) for start, stop in bounding_box((images != 0).any(0)))
    cropped, foreground = images[(slice(None), *box)], seg[0][box] > 0
    samples = foreground_samples(cropped, foreground, n_samples)
    shape = cropped.shape[1:]
    return CaseFingerprint(properties["spacing"], shape, float(np.prod(shape) / np.prod(images.shape[1:])), samples)


def foreground_samples(images: np.ndarray, foreground: np.ndarray, n_samples: int, seed: int = SEED) -> list[np.ndarray]:
    """`n_samples` values a channel of `images` (C, Z, Y, X) where `foreground` (Z, Y, X), drawn with replacement; none where there is no foreground."""
    random = np.random.RandomState(seed)
    samples = []
    for channel in images:
        values = channel[foreground]
        # The empty case's float64 makes the whole dataset's statistics float64, as in upstream's fingerprint.
        samples.append(random.choice(values, n_samples, replace=True) if values.size else np.empty(0))
    return samples


def intensity_properties(samples: np.ndarray) -> dict[str, float]:
    """Mean, SD, range and percentiles of one channel. Reorders `samples`."""
    properties = {"mean": samples.mean(), "std": samples.std(), "min": samples.min(), "max": samples.max()}
    percentiles = np.percentile(samples, list(PERCENTILES.values()), overwrite_input=True)  # last: it sorts in place
    return {name: float(value) for name, value in (properties | dict(zip(PERCENTILES, percentiles))).items()}
