"""Compare cross-validated models and pairs of them, decide on postprocessing, and say how to predict with the best."""

import os
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from shlex import quote

from nnunetv2 import paths
from nnunetv2.ensembling.ensemble import ensemble_crossvalidations
from nnunetv2.evaluation.accumulate_cv_results import TRAINED_ON, accumulate_cv_results, reference_folder
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder, load_summary_json
from nnunetv2.postprocessing.remove_connected_components import determine_postprocessing
from nnunetv2.utilities.dataset_files import get_output_folder
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.file_shapes import DatasetJson
from nnunetv2.utilities.files import atomic_write, load_json, save_json
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

TrainedModel = dict[str, str]  # keys plans, configuration, trainer

DEFAULT_MODELS: tuple[TrainedModel, ...] = tuple({"plans": "nnUNetPlans", "configuration": configuration, "trainer": "nnUNetTrainer"}
                                                 for configuration in ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"))


def find_best_configuration(dataset_name_or_id: int | str, allowed_trained_models: Sequence[TrainedModel] = DEFAULT_MODELS,
                            allow_ensembling: bool = True, num_processes: int | None = None, overwrite: bool = True,
                            folds: Sequence[int | str] = (0, 1, 2, 3, 4), strict: bool = False,
                            by_training_cases: bool = False) -> dict:
    """Score each model's out-of-fold predictions, and each pair's ensemble, by mean foreground Dice; the first of equals wins.

    Postprocessing is determined for the winner. What was found goes to nnUNet_results/DATASET/inference_information.json,
    the commands to predict with it to inference_instructions.txt beside it.

    Args:
        strict: a model that is not trained is an error; else it is left out. Configurations that the plans lack are left out.
        by_training_cases: let fold "all" choose, whose scores are of the cases that it was trained on; else it is refused.
    Returns:
        The content of inference_information.json.
    """
    if "all" in folds and not by_training_cases:
        raise InputError(f"-f all: {TRAINED_ON} A choice by them prefers what overfits. Train folds and choose by those, or insist with --by_training_cases.")
    dataset_name = maybe_convert_to_dataset_name(dataset_name_or_id)
    models = {_folder(dataset_name, model): model for model in trained_models(dataset_name, allowed_trained_models, strict)}
    fold_string = "_".join(str(fold) for fold in folds)
    sources: dict[str, Path] = {}  # identifier -> folder with the joint predictions
    members: dict[str, list[TrainedModel]] = {}
    for folder, model in models.items():
        sources[folder.name], members[folder.name] = folder / f"crossval_results_folds_{fold_string}", [model]
        accumulate_cv_results(folder, sources[folder.name], folds, num_processes, overwrite)
    for first, second in combinations(models, 2) if allow_ensembling else ():
        name = f"ensemble___{first.name}___{second.name}___{fold_string}"
        sources[name], members[name] = paths.nnUNet_results / dataset_name / "ensembles" / name, [models[first], models[second]]
        ensemble_crossvalidations([first, second], sources[name], folds, num_processes, overwrite)
        _evaluate(dataset_name, sources[name], num_processes)

    scores = {name: _score(source) for name, source in sources.items()}
    best = max(scores, key=lambda name: (scores[name] == scores[name], scores[name]))  # NaN, a label in no case, ranks last
    print("\n".join(["Mean foreground Dice:", *(f"  {name}: {score:.4f}" for name, score in scores.items()), f"Best: {best}"]))
    determine_postprocessing(sources[best], reference_folder(dataset_name), num_processes=num_processes)

    information = {
        "folds": list(folds),
        "scored_on": TRAINED_ON if "all" in folds else "cases that the models were not trained on",
        "dataset_name_or_id": dataset_name_or_id,
        "considered_models": list(models.values()),
        "ensembling_allowed": allow_ensembling,
        "all_results": scores,
        "best_model_or_ensemble": {
            "result_on_crossval_pre_pp": scores[best],
            "result_on_crossval_post_pp": _score(sources[best] / "postprocessed"),
            "postprocessing_file": str(sources[best] / "postprocessing.json"),
            "some_plans_file": str(sources[best] / "plans.json"),
            "selected_model_or_models": [{"configuration": model["configuration"], "trainer": model["trainer"], "plans_identifier": model["plans"]}
                                         for model in members[best]],
        },
    }
    results = paths.nnUNet_results / dataset_name
    save_json(information, results / "inference_information.json")
    instructions = inference_instructions(information)
    with atomic_write(results / "inference_instructions.txt") as temporary:
        temporary.write_text(instructions, encoding="utf-8")
    print(instructions)
    return information


def inference_instructions(information: dict) -> str:
    """The commands that predict new cases with the best model or ensemble, from `find_best_configuration`'s result."""
    best = information["best_model_or_ensemble"]
    selected, ensemble = best["selected_model_or_models"], len(best["selected_model_or_models"]) > 1
    outputs = [f"OUTPUT_FOLDER_MODEL_{i}" for i, _ in enumerate(selected, start=1)] if ensemble else ["OUTPUT_FOLDER"]
    lines = ["Predict:"]
    for model, output in zip(selected, outputs):
        lines += predict_commands(information["dataset_name_or_id"], model, information["folds"], output, ensemble)
    if ensemble:
        lines += ["", "Ensemble:", f"nnUNetv2_ensemble -i {' '.join(outputs)} -o OUTPUT_FOLDER"]
    lines += ["", "Post-process:", f"nnUNetv2_apply_postprocessing -i OUTPUT_FOLDER -o OUTPUT_FOLDER_PP -pp_pkl_file {quote(best['postprocessing_file'])} "
              f"-plans_json {quote(best['some_plans_file'])}", ""]
    return "\n".join(lines)


def predict_commands(dataset: int | str, model: dict, folds: Sequence[int | str], output: str, save_probabilities: bool,
                      images: str = "INPUT_FOLDER", previous_masks: str | None = None) -> list[str]:
    """One command, after that of the previous stage if the configuration is the second stage of a cascade.

    previous_masks: where the previous stage's masks lie already; that stage needs no command then.
    """
    folder = get_output_folder(dataset, model["trainer"], model["plans_identifier"], model["configuration"])
    previous = PlansManager(folder / "plans.json").get_configuration(model["configuration"]).previous_stage_name
    command = (f"nnUNetv2_predict -d {quote(str(dataset))} -i {quote(str(images))} -o {quote(str(output))} -f {' '.join(map(str, folds))} -tr {quote(model['trainer'])} "
               f"-c {quote(model['configuration'])} -p {quote(model['plans_identifier'])}")
    if save_probabilities:
        command += " --save_probabilities"
    if previous_masks is not None:
        return [f"{command} -prev_stage_predictions {quote(str(previous_masks))}"]
    if previous is None:
        return [command]
    return [*predict_commands(dataset, model | {"configuration": previous}, folds, "OUTPUT_FOLDER_PREV_STAGE", False, images),
            f"{command} -prev_stage_predictions OUTPUT_FOLDER_PREV_STAGE"]


def trained_models(dataset_name: str, models: Sequence[TrainedModel], strict: bool) -> list[TrainedModel]:
    planned = [model for model in models
               if model["configuration"] in PlansManager(paths.nnUNet_preprocessed / dataset_name / f"{model['plans']}.json").available_configurations]
    untrained = [model for model in planned if not _folder(dataset_name, model).is_dir()]
    trained = [model for model in planned if model not in untrained]
    if untrained and (strict or not trained):
        raise FileNotFoundError("Train these models first, or leave them out:\n" + "\n".join(str(_folder(dataset_name, model)) for model in untrained))
    for model in untrained:
        print(f"Left out, not trained: {_folder(dataset_name, model).name}")
    if not trained:
        raise ValueError(f"The plans of {dataset_name} have none of the configurations {', '.join(model['configuration'] for model in models)}. Choose others with -c.")
    return trained


def _folder(dataset_name: str, model: TrainedModel) -> Path:
    return get_output_folder(dataset_name, model["trainer"], model["plans"], model["configuration"])


def _evaluate(dataset_name: str, folder: Path, num_processes: int | None) -> None:
    plans_manager, dataset_json = PlansManager(folder / "plans.json"), load_json(folder / "dataset.json", DatasetJson)
    labels = plans_manager.get_label_manager(dataset_json)
    compute_metrics_on_folder(reference_folder(dataset_name), folder, folder / "summary.json", plans_manager.image_reader_writer_class(),
                              dataset_json["file_ending"], labels.foreground_regions if labels.has_regions else labels.foreground_labels,
                              labels.ignore_label, num_processes, chill=True)


def _score(folder: str | os.PathLike) -> float:
    return load_summary_json(Path(folder) / "summary.json")["foreground_mean"]["Dice"]
