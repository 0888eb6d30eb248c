"""Upstream's modules that have no file here: module -> public name -> where it lives (`package.module:name`).

Read off nnU-Net 2.8.1 and dynamic-network-architectures 0.4.4. A file at one of these paths takes precedence.
"""

_CASCADE = "nnunetv2.compatibility.cascade_transforms"
_DICTIONARIES = "nnunetv2.compatibility.dict_transforms"
_ITERATORS = "nnunetv2.compatibility.case_iterators"
_OVERLAYS = "nnunetv2.compatibility.overlays"
_RESULTS = "nnunetv2.compatibility.results"
_TENSORS = "nnunetv2.compatibility.tensors"
_NAMES = "nnunetv2.compatibility.model_names"
_DATASETS = "nnunetv2.compatibility.datasets"
_CLASSES = "nnunetv2.utilities.classes_by_name"
_NETWORKS = "nnunetv2.compatibility.networks"
_PLANNING = "nnunetv2.compatibility.planning"
_TRAINING = "nnunetv2.compatibility.training"
_VARIANTS = "nnunetv2.training.nnUNetTrainer.variants"
_TRANSFORMS = "nnunetv2.training.data_augmentation.custom_transforms"  # upstream's path


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
        _DATASETS, "get_identifiers_from_splitted_dataset_folder", "create_lists_from_splitted_dataset_folder", "get_filenames_of_train_images_and_targets",
        "create_paths_fn"),
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
    "nnunetv2.experiment_planning.verify_dataset_integrity": _all_from("nnunetv2.experiment_planning.dataset_integrity", "verify_dataset_integrity")
    | _all_from("nnunetv2.compatibility.dataset_checks", "verify_labels", "check_cases"),
    "nnunetv2.experiment_planning.plans_for_pretraining.move_plans_between_datasets": _all_from(
        "nnunetv2.experiment_planning.move_plans", "move_plans_between_datasets")
    | {"entry_point_move_plans_between_datasets": "nnunetv2.cli.datasets:move_plans_between_datasets"},
    "nnunetv2.preprocessing.cropping.cropping": _all_from("nnunetv2.preprocessing.cropping", "crop_to_nonzero")
    | _all_from(_PLANNING, "create_nonzero_mask"),
    "nnunetv2.experiment_planning.experiment_planners.network_topology": _all_from(
        _PLANNING, "get_shape_must_be_divisible_by", "pad_shape", "get_pool_and_conv_props"),
    "nnunetv2.experiment_planning.plan_and_preprocess_entrypoints": {
        f"{name}_entry": f"nnunetv2.cli.planning:{name}" for name in ("extract_fingerprint", "plan_experiment", "preprocess", "plan_and_preprocess")},
    "nnunetv2.preprocessing.normalization.default_normalization_schemes": _all_from(
        "nnunetv2.preprocessing.normalization", "ImageNormalization", "ZScoreNormalization", "CTNormalization", "NoNormalization",
        "RescaleTo01Normalization", "RGBTo01Normalization"),
    "nnunetv2.preprocessing.normalization.map_channel_name_to_normalization": _all_from(
        "nnunetv2.preprocessing.normalization", "get_normalization_scheme", "channel_name_to_normalization_mapping"),
    "nnunetv2.preprocessing.resampling.default_resampling": _all_from(
        "nnunetv2.preprocessing.resampling", "compute_new_shape", "resample_data_or_seg_to_shape")
    | _all_from(_PLANNING, "get_do_separate_z", "get_lowres_axis", "determine_do_sep_z_and_axis", "resample_data_or_seg_to_spacing",
                "resample_data_or_seg"),
    "nnunetv2.preprocessing.resampling.no_resampling": _all_from("nnunetv2.preprocessing.resampling", "no_resampling_hack"),
    "nnunetv2.preprocessing.resampling.resample_torch": _all_from(
        "nnunetv2.preprocessing.resampling_torch", "resample_torch_simple", "resample_torch_fornnunet"),
    "nnunetv2.preprocessing.resampling.utils": {"recursive_find_resampling_fn_by_name": "nnunetv2.preprocessing.resampling:resampling_fn_by_name"},
    # inference
    "nnunetv2.inference.data_iterators": _all_from(
        _ITERATORS, "preprocessing_iterator_fromfiles", "preprocessing_iterator_fromnpy", "preprocess_fromfiles_save_to_queue",
        "preprocess_fromnpy_save_to_queue", "PreprocessAdapter", "PreprocessAdapterFromNpy"),
    # training
    "nnunetv2.training.logging.nnunet_logger": _all_from(
        "nnunetv2.compatibility.loggers", "MetaLogger", "LocalLogger", "WandbLogger", "get_cluster_job_id"),
    f"{_TRANSFORMS}.cascade_transforms": _all_from(
        _CASCADE, "MoveSegAsOneHotToData", "ApplyRandomBinaryOperatorTransform", "RemoveRandomConnectedComponentFromOneHotEncodingTransform"),
    f"{_TRANSFORMS}.deep_supervision_donwsampling": _all_from(_DICTIONARIES, "DownsampleSegForDSTransform2"),  # upstream's spelling
    f"{_TRANSFORMS}.masking": _all_from(_DICTIONARIES, "MaskTransform"),
    f"{_TRANSFORMS}.region_based_training": _all_from(_DICTIONARIES, "ConvertSegmentationToRegionsTransform"),
    f"{_TRANSFORMS}.transforms_for_dummy_2d": _all_from(_DICTIONARIES, "Convert3DTo2DTransform", "Convert2DTo3DTransform"),
    "nnunetv2.training.lr_scheduler.polylr": _all_from("nnunetv2.training.lr_scheduler", "PolyLRScheduler"),
    "nnunetv2.training.lr_scheduler.warmup": _all_from(
        "nnunetv2.training.lr_scheduler", "Lin_incr_LRScheduler", "Lin_incr_offset_LRScheduler", "PolyLRScheduler_offset", "CosineAnnealingLR_offset"),
    "nnunetv2.training.dataloading.utils": _all_from(_TRAINING, "unpack_dataset", "get_case_identifiers"),
    "nnunetv2.training.data_augmentation.compute_initial_patch_size": _all_from(_TRAINING, "get_patch_size"),
    "nnunetv2.run.load_pretrained_weights": _all_from(_TRAINING, "load_pretrained_weights"),
    "nnunetv2.utilities.find_objects": _all_from(_TRAINING, "recursive_find_trainer_class_by_name"),
    f"{_VARIANTS}.benchmarking.nnUNetTrainerBenchmark_5epochs": _all_from(f"{_VARIANTS}.benchmarks", "nnUNetTrainerBenchmark_5epochs"),
    f"{_VARIANTS}.benchmarking.nnUNetTrainerBenchmark_5epochs_noDataLoading": _all_from(
        f"{_VARIANTS}.benchmarks", "nnUNetTrainerBenchmark_5epochs_noDataLoading"),
    f"{_VARIANTS}.competitions.aortaseg24": _all_from(f"{_VARIANTS}.strong_augmentation", "nnUNetTrainer_onlyMirror01_DA5"),
    f"{_VARIANTS}.data_augmentation.nnUNetTrainerDA5": _all_from(
        f"{_VARIANTS}.strong_augmentation", "nnUNetTrainerDA5", "nnUNetTrainerDA5ord0", "nnUNetTrainerDA5Segord0", "nnUNetTrainerDA5_10epochs"),
    f"{_VARIANTS}.data_augmentation.nnUNetTrainerDAOrd0": _all_from(
        f"{_VARIANTS}.augmentation", "nnUNetTrainer_DASegOrd0", "nnUNetTrainer_DASegOrd0_NoMirroring"),
    f"{_VARIANTS}.data_augmentation.nnUNetTrainerNoDA": _all_from(f"{_VARIANTS}.augmentation", "nnUNetTrainerNoDA"),
    f"{_VARIANTS}.data_augmentation.nnUNetTrainerNoMirroring": _all_from(
        f"{_VARIANTS}.augmentation", "nnUNetTrainerNoMirroring", "nnUNetTrainer_onlyMirror01", "nnUNetTrainer_onlyMirror01_1500ep")
    | {"nnUNetTrainer_onlyMirror01_DASegOrd0": f"{_VARIANTS}.augmentation:nnUNetTrainer_onlyMirror01_DASegOrd0"},
    f"{_VARIANTS}.data_augmentation.nnUNetTrainer_noDummy2DDA": _all_from(f"{_VARIANTS}.augmentation", "nnUNetTrainer_noDummy2DDA"),
    f"{_VARIANTS}.loss.nnUNetTrainerCELoss": _all_from(f"{_VARIANTS}.losses", "nnUNetTrainerCELoss", "nnUNetTrainerCELoss_5epochs"),
    f"{_VARIANTS}.loss.nnUNetTrainerDiceLoss": _all_from(f"{_VARIANTS}.losses", "nnUNetTrainerDiceLoss", "nnUNetTrainerDiceCELoss_noSmooth"),
    f"{_VARIANTS}.loss.nnUNetTrainerTopkLoss": _all_from(
        f"{_VARIANTS}.losses", "nnUNetTrainerTopk10Loss", "nnUNetTrainerTopk10LossLS01", "nnUNetTrainerDiceTopK10Loss"),
    f"{_VARIANTS}.lr_schedule.nnUNetTrainerCosAnneal": _all_from(f"{_VARIANTS}.schedules", "nnUNetTrainerCosAnneal"),
    f"{_VARIANTS}.lr_schedule.nnUNetTrainer_warmup": _all_from(f"{_VARIANTS}.schedules", "nnUNetTrainer_warmup"),
    f"{_VARIANTS}.network_architecture.nnUNetTrainerBN": _all_from(f"{_VARIANTS}.networks_and_sampling", "nnUNetTrainerBN"),
    f"{_VARIANTS}.network_architecture.nnUNetTrainerNoDeepSupervision": _all_from(
        f"{_VARIANTS}.networks_and_sampling", "nnUNetTrainerNoDeepSupervision"),
    f"{_VARIANTS}.optimizer.nnUNetTrainerAdam": _all_from(
        f"{_VARIANTS}.optimizers", "nnUNetTrainerAdam", "nnUNetTrainerVanillaAdam", "nnUNetTrainerVanillaAdam1en3", "nnUNetTrainerVanillaAdam3en4",
        "nnUNetTrainerAdam1en3", "nnUNetTrainerAdam3en4"),
    f"{_VARIANTS}.optimizer.nnUNetTrainerAdan": _all_from(
        f"{_VARIANTS}.optimizers", "nnUNetTrainerAdan", "nnUNetTrainerAdan1en3", "nnUNetTrainerAdan3en4", "nnUNetTrainerAdan1en1", "nnUNetTrainerAdanCosAnneal"),
    f"{_VARIANTS}.sampling.nnUNetTrainer_probabilisticOversampling": _all_from(
        f"{_VARIANTS}.networks_and_sampling", "nnUNetTrainer_probabilisticOversampling", "nnUNetTrainer_probabilisticOversampling_033",
        "nnUNetTrainer_probabilisticOversampling_010"),
    f"{_VARIANTS}.training_length.nnUNetTrainer_Xepochs": _all_from(
        f"{_VARIANTS}.schedules", "nnUNetTrainer_1epoch", *(f"nnUNetTrainer_{n}epochs" for n in (5, 10, 20, 50, 100, 250, 500, 750, 2000, 4000, 8000))),
    f"{_VARIANTS}.training_length.nnUNetTrainer_Xepochs_NoMirroring": _all_from(
        f"{_VARIANTS}.schedules", *(f"nnUNetTrainer_{n}epochs_NoMirroring" for n in (250, 2000, 4000, 8000))),
    "nnunetv2.model_sharing.entry_points": {
        "print_license_warning": f"{_RESULTS}:print_license_warning",
        "download_by_url": "nnunetv2.cli.datasets:download_pretrained_model_by_url",
        "install_from_zip_entry_point": "nnunetv2.cli.results:install_pretrained_model_from_zip",
        "export_pretrained_model_entry": "nnunetv2.cli.results:export_model_to_zip"},
    # networks
    "dynamic_network_architectures.building_blocks.helper": _all_from(
        _NETWORKS, "convert_dim_to_conv_op", "convert_conv_op_to_dim", "get_matching_pool_op", "get_matching_instancenorm", "get_matching_convtransp",
        "get_matching_batchnorm", "get_matching_dropout", "maybe_convert_scalar_to_list"),
    "dynamic_network_architectures.building_blocks.simple_conv_blocks": _all_from(_NETWORKS, "ConvDropoutNormReLU", "StackedConvBlocks"),
    "dynamic_network_architectures.building_blocks.plain_conv_encoder": _all_from(_NETWORKS, "PlainConvEncoder")
    | _all_from(_NETWORKS, "StackedConvBlocks"),
    "dynamic_network_architectures.building_blocks.residual_encoders": _all_from(_NETWORKS, "ResidualEncoder"),
    "dynamic_network_architectures.building_blocks.regularization": _all_from(_NETWORKS, "drop_path", "DropPath"),
    "dynamic_network_architectures.building_blocks.unet_decoder": _all_from("dynamic_network_architectures.building_blocks.decoder", "UNetDecoder"),
    "dynamic_network_architectures.initialization.weight_init": _all_from(_TENSORS, "InitWeights_He")
    | _all_from(_NETWORKS, "InitWeights_XavierUniform", "init_last_bn_before_add_to_0"),
}

# Modules that are files here and have these names upstream as well
ADDED: dict[str, dict[str, str]] = {
    "nnunetv2.configuration": _all_from(_DATASETS, "default_n_proc_DA"),
    "nnunetv2.utilities.dataset_name_id_conversion": _all_from(_DATASETS, "find_candidate_datasets"),
    "nnunetv2.training.dataloading.nnunet_dataset": _all_from("nnunetv2.compatibility.blosc2_shapes", "comp_blosc2_params"),
    "nnunetv2.experiment_planning.plan_and_preprocess_api": _all_from(
        _PLANNING, "extract_fingerprint_dataset", "plan_experiment_dataset", "preprocess_dataset"),
    "nnunetv2.imageio.reader_writer_registry": _all_from(_PLANNING, "LIST_OF_IO_CLASSES"),
    "nnunetv2.evaluation.evaluate_predictions": _all_from(_TRAINING, "labels_to_list_of_regions", "region_or_label_to_mask", "compute_tp_fp_fn_tn")
    | {"evaluate_folder_entry_point": "nnunetv2.cli.results:evaluate_folder", "evaluate_simple_entry_point": "nnunetv2.cli.results:evaluate_simple"},
    "nnunetv2.evaluation.find_best_configuration": {
        "default_trained_models": "nnunetv2.evaluation.find_best_configuration:DEFAULT_MODELS",
        "find_best_configuration_entry_point": "nnunetv2.cli.results:find_best_configuration",
        "accumulate_crossval_results_entry_point": "nnunetv2.cli.results:accumulate_crossval_results"}
    | _all_from(_RESULTS, "filter_available_models", "generate_inference_command", "print_inference_instructions",
                "dumb_trainer_config_plans_to_trained_models_dict"),
    "nnunetv2.ensembling.ensemble": {"entry_point_ensemble_folders": "nnunetv2.cli.results:ensemble"},
    "nnunetv2.postprocessing.remove_connected_components": {
        "load_postprocess_save": f"{_RESULTS}:load_postprocess_save",
        "entry_point_determine_postprocessing_folder": "nnunetv2.cli.results:determine_postprocessing",
        "entry_point_apply_postprocessing": "nnunetv2.cli.results:apply_postprocessing"},
    "nnunetv2.dataset_conversion.convert_MSD_dataset": {"entry_point": "nnunetv2.cli.datasets:convert_MSD_dataset"},
    "nnunetv2.dataset_conversion.convert_raw_dataset_from_old_nnunet_format": {"convert_entry_point": "nnunetv2.cli.datasets:convert_old_nnUNet_dataset"},
    "nnunetv2.inference.export_prediction": _all_from(
        _TRAINING, "convert_predicted_logits_to_segmentation_with_correct_shape", "export_prediction_from_logits", "resample_and_save"),
    "nnunetv2.inference.predict_from_raw_data": {
        "predict_entry_point": "nnunetv2.cli.inference:predict", "predict_entry_point_modelfolder": "nnunetv2.cli.inference:predict_from_modelfolder"},
    "nnunetv2.utilities.label_handling.label_handling": _all_from(_TRAINING, "get_labelmanager_class_from_plans", "convert_labelmap_to_one_hot"),
    "nnunetv2.utilities.overlay_plots": _all_from(
        _OVERLAYS, "hex_to_rgb", "generate_overlay", "select_slice_to_plot", "select_slice_to_plot2", "plot_overlay", "plot_overlay_preprocessed",
        "multiprocessing_plot_overlay", "multiprocessing_plot_overlay_preprocessed", "color_cycle")
    | {"entry_point_generate_overlay": "nnunetv2.cli.results:plot_overlay_pngs"},
}

# What upstream has and this fork leaves out on purpose: how its names begin -> why. docs/library.md says it for users.
LEFT_OUT: dict[str, str] = {
    "nnunetv2.dataset_conversion.Dataset": "it converts one challenge's data; nnUNetv2_convert_MSD_dataset and generate_dataset_json are here",
    "nnunetv2.dataset_conversion.datasets_for_integration_tests": "it makes data for nnU-Net's own tests",
    "nnunetv2.batch_running": "it sends trainings to the LSF cluster of one institute; docs/clusters.md is about clusters",
    "nnunetv2.inference.JHU_inference": "it writes the folders that one benchmark asks for; nnUNetPredictor predicts",
    "nnunetv2.inference.examples": "it is a script with folders of its author; docs/library.md has examples",
    "nnunetv2.preprocessing.preprocessors.default_preprocessor.example_test_case_preprocessing": "it is an example with files of its author",
    "nnunetv2.training.nnUNetTrainer.primus": "it trains transformers, and this fork holds U-Nets alone",
    "nnunetv2.tests": "they are nnU-Net's own tests; this repository's are in tests/",
}
