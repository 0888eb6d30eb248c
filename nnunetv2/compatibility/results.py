"""Choosing among trained models, postprocessing and licences, with nnU-Net's signatures."""

import os
from collections.abc import Callable, Sequence
from itertools import product

from nnunetv2 import paths
from nnunetv2.evaluation.find_best_configuration import TrainedModel, predict_commands, trained_models, inference_instructions
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.files import atomic_write
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager


def dumb_trainer_config_plans_to_trained_models_dict(trainers: Sequence[str], configs: Sequence[str], plans: Sequence[str]) -> tuple[TrainedModel, ...]:
    """Every combination as a model for `find_best_configuration`; plans change fastest, trainers slowest."""
    return tuple({"plans": p, "configuration": c, "trainer": t} for t, c, p in product(trainers, configs, plans))


def filter_available_models(model_dict: Sequence[TrainedModel], dataset_name_or_id: int | str) -> list[TrainedModel]:
    """The models whose configuration is in their plans; the others are named. FileNotFoundError when one of those kept is not trained."""
    dataset_name = maybe_convert_to_dataset_name(dataset_name_or_id)
    planned = []
    for model in model_dict:
        plans_file = paths.nnUNet_preprocessed / dataset_name / f"{model['plans']}.json"
        if model["configuration"] in PlansManager(plans_file).available_configurations:
            planned.append(model)
        else:
            print(f"{plans_file} has no configuration {model['configuration']}; it is left out.")
    return trained_models(dataset_name, planned, strict=True) if planned else []


def generate_inference_command(dataset_name_or_id: int | str, configuration_name: str, plans_identifier: str = "nnUNetPlans",
                               trainer_name: str = "nnUNetTrainer", folds: Sequence[int | str] = (0, 1, 2, 3, 4),
                               folder_with_segs_from_prev_stage: str | None = None, input_folder: str = "INPUT_FOLDER",
                               output_folder: str = "OUTPUT_FOLDER", save_npz: bool = False) -> str:
    """The nnUNetv2_predict command of a trained model. That of a cascade's second stage comes after its first stage's, on a line of
    its own, unless `folder_with_segs_from_prev_stage` says where the first stage's masks lie."""
    model = {"configuration": configuration_name, "trainer": trainer_name, "plans_identifier": plans_identifier}
    return "\n".join(predict_commands(dataset_name_or_id, model, folds, output_folder, save_npz, input_folder, folder_with_segs_from_prev_stage))


def print_inference_instructions(inference_info_dict: dict, instructions_file: str | os.PathLike | None = None) -> None:
    """Print how to predict with what `find_best_configuration` found, and write it to `instructions_file` if there is one."""
    instructions = inference_instructions(inference_info_dict)
    print(instructions)
    if instructions_file is not None:
        with atomic_write(instructions_file) as temporary:
            temporary.write_text(instructions, encoding="utf-8")


def load_postprocess_save(segmentation_file: str, output_fname: str, image_reader_writer: BaseReaderWriter, pp_fns: Sequence[Callable],
                          pp_fn_kwargs: Sequence[dict]) -> None:
    """Apply functions, each mask (Z, Y, X) -> mask with its keywords, one after the other to a segmentation on disk."""
    (seg, *_), properties = image_reader_writer.read_seg(segmentation_file)
    for function, keywords in zip(pp_fns, pp_fn_kwargs, strict=True):
        seg = function(seg, **keywords)
    image_reader_writer.write_seg(seg, output_fname, properties)


def print_license_warning() -> None:
    """Remind of the licence of other people's weights."""
    print("Weights come under the licence of the data that they were trained on. Some licences forbid commercial use. "
          "Read the dataset's licence before you use its weights; keeping to it is up to you.")
