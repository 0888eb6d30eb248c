"""The settings that preprocessed cases were made with, kept beside their folder, and whether they are those of the plans."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunetv2 import paths
from nnunetv2.utilities.errors import InputError, name_some
from nnunetv2.utilities.file_shapes import AnyObject
from nnunetv2.utilities.files import is_there, load_json
from nnunetv2.utilities.manifest import changes

if TYPE_CHECKING:
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

OF_THE_CONFIGURATION = ("preprocessor_name", "spacing", "normalization_schemes", "use_mask_for_norm", "resampling_fn_data", "resampling_fn_data_kwargs",
                        "resampling_fn_seg", "resampling_fn_seg_kwargs")


def recipe_of(plans_manager: "PlansManager", configuration_manager: "ConfigurationManager", dataset_json: dict) -> dict[str, Any]:
    """All settings that a preprocessed case depends on."""
    return {key: configuration_manager.configuration[key] for key in OF_THE_CONFIGURATION} | {
        "transpose_forward": plans_manager.transpose_forward,
        "foreground_intensity_properties_per_channel": plans_manager.foreground_intensity_properties_per_channel,
        "image_reader_writer": plans_manager.plans["image_reader_writer"],
        "labels": dataset_json["labels"],
    }


def recipe_file_of(folder: Path) -> Path:
    """Where the recipe of the cases in `folder` lies: beside it, for upstream takes every file inside for part of a case."""
    return folder.with_name(f"{folder.name}.recipe.json")


def trained_on_lock(data_identifier: str) -> str:
    """Name of the lock, in the dataset's folder, that trainings on the cases of `data_identifier` share."""
    return f"training_{data_identifier}"


def refuse_other_recipe(dataset: str, plans_manager: "PlansManager", configuration_manager: "ConfigurationManager", dataset_json: dict) -> None:
    """InputError when the preprocessed cases that a training is about to read were made with other settings than its plans'.

    Plans share folders, as those of the residual encoders do with the default ones, so whoever preprocessed last decided. A
    network trained on such data would be given other images when it predicts. Folders without a recipe pass, settings that an
    older recipe lacks do not count, nor do names of labels.
    """
    folder = paths.nnUNet_preprocessed / dataset / configuration_manager.data_identifier
    file = recipe_file_of(folder)
    if not is_there(file):
        return
    made_with, wanted = (_without_names(recipe) for recipe in (load_json(file, AnyObject), recipe_of(plans_manager, configuration_manager, dataset_json)))
    other = changes(made_with, {key: value for key, value in wanted.items() if key in made_with})
    if other:
        plans = plans_manager.plans_name
        raise InputError(f"{folder} was preprocessed with other settings than those of {plans}: {name_some(other)}. Run nnUNetv2_preprocess -d {dataset} "
                         f"-plans_name {plans} with -c of this configuration, or train with the plans that were preprocessed last.")


def _without_names(recipe: dict[str, Any]) -> dict[str, Any]:
    labels = recipe.get("labels")
    return recipe | {"labels": list(labels.values())} if isinstance(labels, dict) else recipe
