"""From raw cases to what the network sees: transpose, crop, normalise, resample. Arrays (C, Z, Y, X), spacings z, y, x in mm."""

import math
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np

from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.geometry import off_its_image
from nnunetv2 import paths
from nnunetv2.preprocessing.case_store import is_complete, save_case
from nnunetv2.preprocessing.class_locations import MIN_SAMPLES, MIN_SHARE, SEED, sample_class_locations
from nnunetv2.preprocessing.cropping import crop_to_nonzero
from nnunetv2.preprocessing.dataset_copies import copy_dataset_files
from nnunetv2.preprocessing.normalization import normalize
from nnunetv2.preprocessing.recipe import recipe_file_of, recipe_of, trained_on_lock
from nnunetv2.preprocessing.resampling import compute_new_shape
from nnunetv2.utilities.data_manifest import forget_default_split, hash_cases, read_manifest, record, refuse_changed_plans
from nnunetv2.utilities.dataset_files import get_filenames_of_train_images_and_targets, preprocessed_names
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.errors import InputError, list_some, name_some
from nnunetv2.utilities.file_shapes import AnyObject, DatasetJson
from nnunetv2.utilities.files import atomic_write, load_json, save_json
from nnunetv2.utilities.folder_lock import folder_lock, is_in_use
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.leftovers import sweep
from nnunetv2.utilities.memory import refuse_beyond_memory
from nnunetv2.utilities.parallel import in_processes
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from nnunetv2.utilities.safe_names import plain_name

CASE_ENDINGS = (".b2nd", ".pkl", ".npz", ".npy")  # upstream's older versions wrote the last two


class DefaultPreprocessor:
    """Subclasses override a method that has a name of nnU-Net's: run_case, run_case_npy, run_case_save, modify_seg_fn, _normalize, _sample_foreground_locations."""

    def __init__(self, verbose: bool = False):
        self.verbose = verbose

    def run_case(self, image_files: list[str], seg_file: str | None, plans_manager: PlansManager,
                 configuration_manager: ConfigurationManager, dataset_json: dict | str) -> tuple[np.ndarray, np.ndarray, dict]:
        """Read and preprocess one case; see `run_case_npy`. `seg_file` is None for cases without a reference."""
        reader = plans_manager.image_reader_writer_class()
        data, properties = reader.read_images(image_files)
        seg = None
        if seg_file is not None:
            seg, seg_properties = reader.read_seg(seg_file)
            if problem := off_its_image(seg_file, properties, seg_properties, data.shape[1:], seg.shape[1:]):
                raise InputError(problem)
        return self.run_case_npy(data, seg, properties, plans_manager, configuration_manager, dataset_json)

    def run_case_npy(self, data: np.ndarray, seg: np.ndarray | None, properties: dict, plans_manager: PlansManager,
                     configuration_manager: ConfigurationManager, dataset_json: dict | str) -> tuple[np.ndarray, np.ndarray, dict]:
        """Preprocess arrays as the reader gives them. The arguments stay as they are.

        Args:
            data: (C, Z, Y, X); seg: (1, Z, Y, X) or None; properties: at least "spacing".
        Returns:
            Data (C, z, y, x) float32 in the plans' axis order; segmentation (1, z, y, x) int8, or int16 with labels above
            127, where -1 is outside the non-zero mask; properties with what undoes it all, and with "class_locations" if a
            segmentation was given.
        """
        if not isinstance(dataset_json, dict):
            dataset_json = load_json(dataset_json, DatasetJson)
        labels = plans_manager.get_label_manager(dataset_json)
        has_reference = seg is not None
        if has_reference:
            seg = _checked_labels(seg, data.shape, labels)
        axes = plans_manager.transpose_forward
        data = data.transpose(0, *(axis + 1 for axis in axes))
        if has_reference:
            seg = seg.transpose(0, *(axis + 1 for axis in axes))
        spacing = [properties["spacing"][axis] for axis in axes]

        shape_before_cropping = data.shape[1:]
        data, seg, box = crop_to_nonzero(data, seg)
        target_spacing = list(configuration_manager.spacing)
        if len(target_spacing) < 3:  # 2D plans leave the spacing between slices as it is
            target_spacing = [spacing[0], *target_spacing]
        new_shape = compute_new_shape(data.shape[1:], spacing, target_spacing)
        if 0 in new_shape:
            raise InputError(f"The image's {data.shape[1:]} voxels of {spacing} mm would be {new_shape} at the plans' spacing {target_spacing}: it is thinner than half "
                             "a voxel of the network. Give the whole series, or correct the spacing.")
        refuse_beyond_memory(data.itemsize * len(data) * math.prod(new_shape),
                             f"an image of {data.shape[1:]} voxels of {spacing} mm at the plans' spacing {target_spacing}", configuration_manager.source)

        resample = partial(configuration_manager.resampling_fn_data, new_shape=new_shape, current_spacing=spacing, new_spacing=target_spacing)
        if type(self)._normalize is DefaultPreprocessor._normalize:
            data = _normalize_and_resample(data, seg[0], plans_manager, configuration_manager, resample)
        else:  # somebody's own, which may look at all channels together
            data = resample(self._normalize(data.astype(np.float32, order="C"), seg, configuration_manager,
                                            plans_manager.foreground_intensity_properties_per_channel))
        properties = properties | {
            "shape_before_cropping": shape_before_cropping,
            "bbox_used_for_cropping": box,
            "shape_after_cropping_and_before_resampling": seg.shape[1:],
        }
        seg = configuration_manager.resampling_fn_seg(seg, new_shape, spacing, target_spacing)
        if self.verbose:
            print(f"{properties['shape_after_cropping_and_before_resampling']} voxels of {spacing} mm -> {new_shape} of {target_spacing} mm")
        if has_reference:
            properties["class_locations"] = self._sample_foreground_locations(seg, _sampled_classes(labels), verbose=self.verbose)
            seg = self.modify_seg_fn(seg, plans_manager, dataset_json, configuration_manager)
        return data, seg.astype(np.int16 if seg.max() > 127 else np.int8, copy=False), properties

    def run_case_save(self, output_filename_truncated: str, image_files: list[str], seg_file: str | None, plans_manager: PlansManager,
                      configuration_manager: ConfigurationManager, dataset_json: dict | str) -> None:
        """Read, preprocess and store one case, as OUTPUT.b2nd, OUTPUT_seg.b2nd and OUTPUT.pkl."""
        data, seg, properties = self.run_case(image_files, seg_file, plans_manager, configuration_manager, dataset_json)
        folder, case = os.path.split(output_filename_truncated)
        save_case(data, seg, properties, folder, case, configuration_manager.patch_size)

    def modify_seg_fn(self, seg: np.ndarray, plans_manager: PlansManager, dataset_json: dict, configuration_manager: ConfigurationManager) -> np.ndarray:
        """A hook: the preprocessed reference (1, z, y, x) as training shall see it. `class_locations` are of the one given."""
        return seg

    def _normalize(self, data: np.ndarray, seg: np.ndarray, configuration_manager: ConfigurationManager,
                   foreground_intensity_properties_per_channel: dict) -> np.ndarray:
        """A hook: data (C, Z, Y, X) float32, which may be changed in place, and seg (1, Z, Y, X), negative outside the non-zero mask -> data."""
        for i, (scheme, use_mask) in enumerate(zip(configuration_manager.normalization_schemes, configuration_manager.use_mask_for_norm)):
            normalize(data[i], scheme, use_mask, seg[0], foreground_intensity_properties_per_channel.get(str(i)))
        return data

    @staticmethod
    def _sample_foreground_locations(seg: np.ndarray, classes_or_regions: list, seed: int | None = SEED, verbose: bool = False,
                                     min_num_samples: int = MIN_SAMPLES, min_percent_coverage: float = MIN_SHARE) -> dict:
        """A hook: where training may centre its patches; see sample_class_locations."""
        return sample_class_locations(seg, classes_or_regions, seed, min_num_samples, min_percent_coverage)

    def run(self, dataset_name_or_id: int | str, configuration_name: str, plans_identifier: str, num_processes: int | None = None) -> None:
        """Preprocess the training cases of a dataset into nnUNet_preprocessed/DATASET/<data_identifier>, and copy their references.

        Cases that are done are kept: those whose three files are whole and were made with the same settings from the same raw
        files. Files of cases that the dataset no longer has are removed. Raises InputError when the split, the held-out cases
        or the labels of the raw dataset changed since it was planned.
        """
        dataset_name = maybe_convert_to_dataset_name(dataset_name_or_id)
        raw, preprocessed = paths.nnUNet_raw / dataset_name, paths.nnUNet_preprocessed / dataset_name
        plain_name(plans_identifier, "plans", "-plans_name")
        plans_file = preprocessed / f"{plans_identifier}.json"
        for path, remedy in ((raw, "Convert the data first."), (plans_file, "Run nnUNetv2_plan_experiment first.")):
            if not path.exists():
                raise FileNotFoundError(f"{path} does not exist. {remedy}")
        plans_manager = PlansManager(plans_file)
        configuration_manager = plans_manager.get_configuration(configuration_name)
        if not (preprocessed / "dataset.json").is_file():  # never planned: its plans are another dataset's
            copy_dataset_files(dataset_name)
        dataset_json = load_json(preprocessed / "dataset.json", DatasetJson)
        cases = get_filenames_of_train_images_and_targets(raw, dataset_json)
        _refuse_absent_files(cases)
        folder = preprocessed / configuration_manager.data_identifier
        with folder_lock(preprocessed, f"preprocessing_{folder.name}", f"{configuration_name} is preprocessed"):
            sweep(preprocessed, folder, preprocessed / "gt_segmentations")
            refuse_changed_plans(dataset_name)
            recipe = recipe_of(plans_manager, configuration_manager, dataset_json)
            _prepare_folder(folder, cases, recipe)
            hashes = hash_cases(preprocessed, cases, num_processes)
            made_from = read_manifest(preprocessed).get("preprocessed", {}).get(folder.name, {})
            done = {case for case in cases if _is_done(folder, case, cases[case], made_from.get(case), hashes[case])}
            _refuse_while_trained_on(folder, [name for case in cases.keys() - done for name in preprocessed_names(case) if (folder / name).exists()])
            _copy_references(cases, preprocessed / "gt_segmentations", dataset_json["file_ending"],
                             {case for case, value in hashes.items() if made_from.get(case, value) != value}, plans_manager.image_reader_writer_class())
            # a training that was tried while the references were incomplete has split those that were there
            forget_default_split(preprocessed, cases.keys() - set(dataset_json.get("holdout", [])))
            record(preprocessed, preprocessed={folder.name: {case: hashes[case] for case in sorted(done)}})
            pending = {case: (case, files) for case, files in cases.items() if case not in done}
            # the rest is sent once a worker: a dataset.json that lists thousands of cases takes longer to send than a small case to preprocess
            preprocess = partial(_run_and_save, self, folder=folder, plans_manager=plans_manager, configuration_manager=configuration_manager,
                                 dataset_json=dataset_json)
            print(f"{dataset_name} {configuration_name}: {len(done)} of {len(cases)} cases are done already.")
            in_processes(preprocess, pending, num_processes, f"Preprocessing {configuration_name}")
            record(preprocessed, preprocessed={folder.name: hashes})


def _run_and_save(preprocessor: DefaultPreprocessor, case: str, files: dict, folder: Path, plans_manager: PlansManager,
                  configuration_manager: ConfigurationManager, dataset_json: dict) -> None:
    preprocessor.run_case_save(os.path.join(folder, case), files["images"], files["label"], plans_manager, configuration_manager, dataset_json)


def _checked_labels(seg: np.ndarray, data_shape: tuple[int, ...], labels: LabelManager) -> np.ndarray:
    """`seg` as int16, after a look at its shape and values."""
    if seg.shape[1:] != data_shape[1:]:
        raise ValueError(f"Image and segmentation differ in shape: {data_shape[1:]} and {seg.shape[1:]}. Run with --verify_dataset_integrity.")
    known = labels.labels_of_masks
    whole = seg.astype(np.int16)
    unknown = np.unique(seg[whole != seg]).tolist() or sorted(set(np.unique(whole).tolist()) - set(known))
    if unknown:
        raise ValueError(f"The segmentation holds the value(s) {unknown[:10]}; dataset.json knows the labels {known}. Correct one of them.")
    return whole


def _normalize_and_resample(data: np.ndarray, seg: np.ndarray, plans_manager: PlansManager, configuration_manager: ConfigurationManager,
                            resample: partial) -> np.ndarray:
    """(C, Z, Y, X) -> (C, z, y, x) float32, a channel at a time, so that only one is held at both sizes.

    Normalisation comes first: after resampling, the non-zero mask would no longer fit the image exactly.
    """
    n_channels = len(data)
    schemes, use_mask = configuration_manager.normalization_schemes, configuration_manager.use_mask_for_norm
    if len(schemes) != n_channels:
        raise ValueError(f"The image has {n_channels} channel(s), the plans expect {len(schemes)}; correct the files or plan again.")
    out = np.empty((n_channels, *resample.keywords["new_shape"]), np.float32)
    for i in range(n_channels):
        channel = data[i].astype(np.float32, order="C")  # a copy, which is normalised in place
        normalize(channel, schemes[i], use_mask[i], seg, plans_manager.intensities_of(i))
        resampled = resample(channel[None])
        if n_channels == 1:
            return resampled
        out[i] = resampled[0]
    return out


def _sampled_classes(labels: LabelManager) -> list:
    classes = list(labels.foreground_regions if labels.has_regions else labels.foreground_labels)
    if labels.has_ignore_label:
        classes.append((-1, *labels.all_labels))  # all annotated voxels, for patches that need not hold foreground
    return classes


def _refuse_absent_files(cases: dict) -> None:
    absent = [file for files in cases.values() for file in (*files["images"], files["label"]) if not os.path.isfile(file)]
    if absent:
        raise FileNotFoundError(f"{len(absent)} files of training cases are missing, or are no regular files; add them:\n{list_some(absent)}")


def _is_done(folder: Path, case: str, files: dict, made_from: str | None, now: str) -> bool:
    """Whether the preprocessed case is whole and of these raw files: by their hash, or by their times where none was recorded."""
    if made_from is not None:
        return made_from == now and is_complete(folder, case)
    return is_complete(folder, case, newer_than=max(os.path.getmtime(file) for file in (*files["images"], files["label"])))


def _copy_references(cases: dict, folder: Path, file_ending: str, changed: set[str], reader: BaseReaderWriter) -> None:
    """Copy the original segmentations, so that validation works where the raw data are not. One of another format is written anew, in the dataset's.

    Those of cases that the dataset no longer has are removed, for splits are made of what lies here; not through a link.
    """
    if not folder.is_symlink():
        for path in folder.glob(f"*{file_ending}"):
            if path.name.removesuffix(file_ending) not in cases and not path.name.startswith(".") and path.is_file():
                path.unlink()
    for case, files in cases.items():
        target = folder / f"{case}{file_ending}"
        if case not in changed and target.exists() and target.stat().st_mtime >= os.path.getmtime(files["label"]):
            continue
        if not files["label"].lower().endswith(file_ending.lower()):
            seg, properties = reader.read_seg(files["label"])
            folder.mkdir(parents=True, exist_ok=True)
            reader.write_seg(seg[0], target, properties)
        else:
            with atomic_write(target) as temporary:
                shutil.copyfile(files["label"], temporary)


def _prepare_folder(folder: Path, cases: dict, recipe: dict) -> None:
    """Empty `folder` if it was made with other settings, and remove from it what belongs to no case.

    Nothing is deleted through a link, nor where anything else than preprocessed cases lies; InputError then.
    """
    recipe_file = recipe_file_of(folder)
    expected = {name for case in cases for name in preprocessed_names(case)}
    outdated = folder.exists() and not (recipe_file.exists() and load_json(recipe_file, AnyObject) == recipe)
    superfluous = [path for path in (folder.iterdir() if folder.is_dir() else ())
                   if outdated or (path.name not in expected and path.suffix in CASE_ENDINGS)]
    if superfluous:
        _refuse_to_delete(folder, superfluous)
        _refuse_while_trained_on(folder, [path.name for path in superfluous])
    if outdated:
        print(f"{folder.name} was made with other settings and is made anew.")
    for path in superfluous:
        path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    save_json(recipe, recipe_file)


def _refuse_while_trained_on(folder: Path, files: list[str]) -> None:
    """InputError where trainings read `folder` and `files` of it are about to be replaced or deleted: they would learn from two states of it."""
    if files and is_in_use(folder.parent, trained_on_lock(folder.name)):
        raise InputError(f"{folder} is being trained on, and {len(files)} of its files would be made anew or deleted ({name_some(sorted(files))}). "
                         "Wait until the training has ended, or end it first.")


def _refuse_to_delete(folder: Path, files: list[Path]) -> None:
    """InputError unless `folder` is a folder itself and all of `files` are what preprocessing writes, of this fork or of upstream."""
    if folder.is_symlink():
        raise InputError(f"{folder} is a link to {os.path.realpath(folder)}, and preprocessing would delete files there. "
                         "Delete them yourself, or give the configuration another data_identifier.")
    foreign = sorted(path.name for path in files if path.is_symlink() or not path.is_file() or path.suffix not in CASE_ENDINGS)
    if foreign:
        raise InputError(f"{folder} holds {len(foreign)} thing(s) that are no preprocessed cases, so nothing in it is deleted: {', '.join(foreign[:5])}. "
                         "Move them away, or give the configuration another data_identifier.")
