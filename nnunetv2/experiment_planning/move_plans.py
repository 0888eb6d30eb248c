"""Give a dataset the plans of another, so that a network can be trained on one and fine-tuned on the other."""

from nnunetv2 import paths
from nnunetv2.experiment_planning.experiment_planner import name_for_plans
from nnunetv2.imageio.reader_writer_registry import TIFF, reader_writer_name
from nnunetv2.utilities.dataset_files import example_image, get_filenames_of_train_images_and_targets
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.file_shapes import DatasetJson, Plans
from nnunetv2.utilities.files import load_json, save_json
from nnunetv2.utilities.safe_names import plain_name


def move_plans_between_datasets(source_dataset_name_or_id: int | str, target_dataset_name_or_id: int | str, source_plans_identifier: str,
                                target_plans_identifier: str | None = None) -> None:
    """Copy the source's plans to the target under `target_plans_identifier`, the source's own by default.

    Dataset name, plans name, reader and the folders of preprocessed data are changed to the target's; patch, spacing and
    network stay. FileNotFoundError when the source is not planned or the target has no raw data.
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
    save_json(plans, paths.nnUNet_preprocessed / target / f"{identifier}.json")
