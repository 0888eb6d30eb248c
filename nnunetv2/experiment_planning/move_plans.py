"""Give a dataset the plans of another, so that a network can be trained on one and fine-tuned on the other."""

from nnunetv2 import paths
from nnunetv2.experiment_planning.experiment_planner import default_class_head, name_for_plans
from nnunetv2.imageio.reader_writer_registry import TIFF, reader_writer_name
from nnunetv2.utilities.classification import ClassificationTask
from nnunetv2.utilities.dataset_files import example_image, get_filenames_of_train_images_and_targets
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.file_shapes import DatasetJson, Plans
from nnunetv2.utilities.files import load_json, save_json
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.safe_names import plain_name


def move_plans_between_datasets(source_dataset_name_or_id: int | str, target_dataset_name_or_id: int | str, source_plans_identifier: str,
                                target_plans_identifier: str | None = None) -> None:
    """Copy the source's plans to the target under `target_plans_identifier`, the source's own by default.

    Dataset name, plans name, reader and the folders of preprocessed data are changed to the target's; patch, spacing and
    network stay; the class head is that of the target's classification task, none without one. FileNotFoundError when the source is not planned or the target has no raw data.
    """
    source, target = (maybe_convert_to_dataset_name(dataset) for dataset in (source_dataset_name_or_id, target_dataset_name_or_id))
    identifier = name_for_plans(source_plans_identifier if target_plans_identifier is None else target_plans_identifier, "-tp")
    plans_file = paths.nnUNet_preprocessed / source / f"{plain_name(source_plans_identifier, 'plans', '-sp')}.json"
    if not plans_file.is_file():
        raise FileNotFoundError(f"{plans_file} does not exist. Plan {source} first: nnUNetv2_plan_experiment -d {source}.")
    plans = load_json(plans_file, Plans, partial=True)
    for configuration in plans["configurations"].values():
        folder = configuration.get("data_identifier")
        if folder is None or identifier == source_plans_identifier:
            continue
        known = folder.startswith(source_plans_identifier)
        configuration["data_identifier"] = identifier + (folder.removeprefix(source_plans_identifier) if known else f"_{folder}")
    dataset_json = load_json(paths.nnUNet_raw / target / "dataset.json", DatasetJson)
    example = example_image(get_filenames_of_train_images_and_targets(paths.nnUNet_raw / target, dataset_json)) if dataset_json["file_ending"].lower() == TIFF else None
    plans |= {"dataset_name": target, "plans_name": identifier, "image_reader_writer": reader_writer_name(dataset_json, example)}
    _fit_class_head(plans, dataset_json)
    save_json(plans, paths.nnUNet_preprocessed / target / f"{identifier}.json")


def _fit_class_head(plans: dict, dataset_json: dict) -> None:
    """Each network gets a class head for the classes and lesions of `dataset_json`, or loses the one it has; one that fits stays as it is."""
    labels, n_channels = LabelManager(dataset_json["labels"], dataset_json.get("regions_class_order")), len(dataset_json["channel_names"])
    task = None if labels.has_regions else ClassificationTask.from_dataset_json(dataset_json, labels.foreground_labels)
    wanted = None if task is None else default_class_head(task, n_channels)
    for architecture in (configuration["architecture"] for configuration in plans["configurations"].values() if "architecture" in configuration):
        head = architecture.pop("class_head", None)
        if wanted is not None:
            fits = head is not None and all(head.get(key, wanted[key]) == wanted[key] for key in ("n_classes", "lesion_labels", "texture_of_channels"))
            architecture["class_head"] = head if fits else wanted
