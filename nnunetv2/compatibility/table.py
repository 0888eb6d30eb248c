"""Upstream's modules that have no file here: module -> public name -> where it lives (`package.module:name`).

Read off nnU-Net 2.8.1 and dynamic-network-architectures 0.4.4. A file at one of these paths takes precedence.
"""

_TENSORS = "nnunetv2.compatibility.tensors"
_NAMES = "nnunetv2.compatibility.model_names"
_DATASETS = "nnunetv2.compatibility.datasets"
_CLASSES = "nnunetv2.utilities.classes_by_name"


def _all_from(module: str, *names: str) -> dict[str, str]:
    return {name: f"{module}:{name}" for name in names}


MODULES: dict[str, dict[str, str]] = {
    # utilities
    "nnunetv2.utilities.helpers": _all_from(_TENSORS, "softmax_helper_dim0", "softmax_helper_dim1", "empty_cache", "dummy_context"),
    "nnunetv2.utilities.collate_outputs": _all_from(_TENSORS, "collate_outputs"),
    "nnunetv2.utilities.ddp_allgather": _all_from(_TENSORS, "print_if_rank0", "AllGatherGrad"),
    "nnunetv2.utilities.network_initialization": _all_from(_TENSORS, "InitWeights_He"),
    "nnunetv2.utilities.file_path_utilities": _all_from(
        _NAMES, "convert_trainer_plans_config_to_identifier", "convert_identifier_to_trainer_plans_config",
        "parse_dataset_trainer_plans_configuration_from_path", "get_ensemble_name", "get_ensemble_name_from_d_tr_c",
        "convert_ensemble_folder_to_model_identifiers_and_folds", "folds_tuple_to_string", "folds_string_to_tuple", "check_workers_alive_and_busy",
    ) | {"get_output_folder": "nnunetv2.utilities.dataset_files:get_output_folder",
         "maybe_convert_to_dataset_name": "nnunetv2.utilities.dataset_name_id_conversion:maybe_convert_to_dataset_name"},
    "nnunetv2.utilities.utils": _all_from(
        _DATASETS, "get_identifiers_from_splitted_dataset_folder", "create_lists_from_splitted_dataset_folder", "get_filenames_of_train_images_and_targets"),
    "nnunetv2.utilities.crossval_split": _all_from(_DATASETS, "generate_crossval_split"),
    "nnunetv2.utilities.default_n_proc_DA": _all_from(_DATASETS, "get_allowed_n_proc_DA"),
    "nnunetv2.utilities.json_export": _all_from(_DATASETS, "recursive_fix_for_json_export", "fix_types_iterable"),
    "nnunetv2.utilities.find_class_by_name": _all_from(
        _CLASSES, "temporarily_extend_syspath", "temporarily_cleanup_imports_from_path", "recursive_find_python_class"),
    # planning and preprocessing
    "nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor": _all_from(
        "nnunetv2.experiment_planning.dataset_fingerprint", "DatasetFingerprintExtractor"),
    "nnunetv2.experiment_planning.experiment_planners.default_experiment_planner": _all_from(
        "nnunetv2.experiment_planning.experiment_planner", "ExperimentPlanner"),
    "nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners": _all_from(
        "nnunetv2.experiment_planning.residual_encoder_planners", "ResEncUNetPlanner", "nnUNetPlannerResEncM", "nnUNetPlannerResEncL", "nnUNetPlannerResEncXL"),
    "nnunetv2.experiment_planning.experiment_planners.resencUNet_planner": _all_from(
        "nnunetv2.experiment_planning.residual_encoder_planners", "ResEncUNetPlanner"),
    "nnunetv2.experiment_planning.experiment_planners.resampling.planners_no_resampling": _all_from(
        "nnunetv2.experiment_planning.resampling_planners", "nnUNetPlannerResEncL_noResampling"),
    "nnunetv2.experiment_planning.experiment_planners.resampling.resample_with_torch": _all_from(
        "nnunetv2.experiment_planning.resampling_planners", "nnUNetPlannerResEncL_torchres", "nnUNetPlannerResEncL_torchres_sepz", "nnUNetPlanner_torchres"),
    "nnunetv2.experiment_planning.verify_dataset_integrity": _all_from("nnunetv2.experiment_planning.dataset_integrity", "verify_dataset_integrity"),
    "nnunetv2.experiment_planning.plans_for_pretraining.move_plans_between_datasets": _all_from(
        "nnunetv2.experiment_planning.move_plans", "move_plans_between_datasets"),
    "nnunetv2.preprocessing.cropping.cropping": _all_from("nnunetv2.preprocessing.cropping", "crop_to_nonzero"),
    "nnunetv2.preprocessing.resampling.default_resampling": _all_from(
        "nnunetv2.preprocessing.resampling", "compute_new_shape", "resample_data_or_seg_to_shape"),
    "nnunetv2.preprocessing.resampling.no_resampling": _all_from("nnunetv2.preprocessing.resampling", "no_resampling_hack"),
    "nnunetv2.preprocessing.resampling.resample_torch": _all_from(
        "nnunetv2.preprocessing.resampling_torch", "resample_torch_simple", "resample_torch_fornnunet"),
    "nnunetv2.preprocessing.resampling.utils": {"recursive_find_resampling_fn_by_name": "nnunetv2.preprocessing.resampling:resampling_fn_by_name"},
    # training
    "nnunetv2.training.lr_scheduler.polylr": _all_from("nnunetv2.training.lr_scheduler", "PolyLRScheduler"),
    # networks
    "dynamic_network_architectures.building_blocks.plain_conv_encoder": _all_from("dynamic_network_architectures.building_blocks.encoders", "PlainConvEncoder"),
    "dynamic_network_architectures.building_blocks.residual_encoders": {
        "ResidualEncoder": "dynamic_network_architectures.building_blocks.encoders:ResidualEncoder"},
    "dynamic_network_architectures.building_blocks.unet_decoder": _all_from("dynamic_network_architectures.building_blocks.decoder", "UNetDecoder"),
    "dynamic_network_architectures.initialization.weight_init": _all_from(_TENSORS, "InitWeights_He"),
}
