"""Predict images with a trained model.

    predictor = nnUNetPredictor(device=torch.device("cuda"), mode="fast")
    predictor.initialize_from_trained_model_folder("nnUNet_results/Dataset777_PancreasCT/nnUNetTrainer__nnUNetResEncUNetMPlans__3d_fullres", (0,))
    predictor.predict_from_files("imagesTs", "predictions")
    result = predictor.predict_sitk_images(sitk.ReadImage("case_0000.nii.gz"))  # result.mask_image(), result.class_name, result.volumes_ml
    mask = predictor.predict_single_npy_array(*SimpleITKIO().read_images(["case_0000.nii.gz"]))

Upstream's class and method names; `mode` and its levers (inference/modes.py) are added, and so are `return_classification`, `progress` and
`cancelled`. A predictor keeps its model for any number of calls, from any number of threads.
"""

import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor, nn

from dynamic_network_architectures.architectures.unet import UNet
from nnunetv2.class_evidence.head import EvidenceHead
from nnunetv2.configuration import available_cores
from nnunetv2.imageio.geometry import off_its_image
from nnunetv2.imageio.image_arrays import from_sitk
from nnunetv2.imageio.reader_writer_registry import refuse_unread_ending
from nnunetv2.imageio.simpleitk_reader_writer import turned_to_ras
from nnunetv2.inference.array_prediction import ArrayPrediction, as_float32
from nnunetv2.inference.case_prediction import CasePredictor
from nnunetv2.inference.case_result import CaseResult, as_its_image
from nnunetv2.inference.case_steps import CaseSteps
from nnunetv2.inference.cases import list_cases, output_path
from nnunetv2.inference.dicom_cases import DicomCases, dicom_cases
from nnunetv2.inference.engines import Engine, make_engine
from nnunetv2.inference.engines.cuda_start import begin_cuda
from nnunetv2.inference.model_loading import available_folds, find_model, load_coarse_network, measurement_of, refuse_other_plans
from nnunetv2.inference.modes import cpu_has_fast_int8, inference_mode
from nnunetv2.inference.network_access import NetworkAccess
from nnunetv2.inference.network_geometry import network_geometry
from nnunetv2.inference.output_folders import prediction_locks, refuse_unwritable
from nnunetv2.inference.pipeline import Case, CasesFailed, refuse_thread_counts
from nnunetv2.inference.prediction_run import PredictionRun
from nnunetv2.inference.watch import Cancelled, PredictionCancelled, Progress, Watch  # noqa: F401 (the exception, for callers)
from nnunetv2.utilities.classification import ClassificationTask
from nnunetv2.utilities.default_device import on_cpu_by_default
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.file_shapes import DatasetJson, with_channel_names
from nnunetv2.utilities.files import load_json
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from nnunetv2.utilities.prediction_manifest import model_record

PathLike = str | os.PathLike


class nnUNetPredictor(CaseSteps, ArrayPrediction, NetworkAccess):
    """Loaded model plus the way it is run. `initialize_from_trained_model_folder` or `manual_initialization` comes first."""

    def __init__(
        self,
        tile_step_size: float = 0.5,
        use_gaussian: bool = True,
        use_mirroring: bool = True,
        perform_everything_on_device: bool = True,
        device: torch.device | str = torch.device("cuda"),
        verbose: bool = False,
        verbose_preprocessing: bool = False,
        allow_tqdm: bool = True,
        mode: str = "exact",
        precision: str | None = None,
        tta: int | None = None,
        tiling: str | None = None,
        roi: str | None = None,
        engine: str | None = None,
        roi_model: PathLike | None = None,
    ) -> None:
        """precision, tta, tiling, roi: override the mode's. use_mirroring False is tta 1.

        perform_everything_on_device: image and sums of windows lie on a GPU that has room for them; False keeps them in main memory.

        roi_model: folder of another model, trained on a coarser grid, that finds the boxes of roi "coarse"; its first fold is used.

        engine: "torch", "openvino", "winograd" or "auto"; None is "auto" for a trained model's folder and "torch" for a network handed over.
        """
        super().__init__()
        if not use_mirroring and tta not in (None, 1):
            raise ValueError(f"use_mirroring=False and tta={tta} contradict each other.")
        self.mode_name = mode
        self.mode = inference_mode(mode, precision=precision, tta=tta if use_mirroring else 1, tiling=tiling, roi=roi,
                                   tile_step_size=tile_step_size)
        if roi_model is not None and self.mode.roi == "none":
            raise ValueError(f"roi_model finds boxes, but mode {mode!r} segments whole volumes; choose --mode fast or --roi coarse.")
        self.device, self.engine_wish, self.roi_model = torch.device(device), engine, roi_model
        self.tile_step_size, self.use_mirroring, self.perform_everything_on_device = self.mode.tile_step_size, use_mirroring, perform_everything_on_device
        self.plans_manager = self.configuration_manager = self.dataset_json = self.trainer_name = self.case_predictor = None
        self.allowed_mirroring_axes = self.label_manager = self.task = None
        self.evidence: Sequence[EvidenceHead | None] = ()
        self.use_gaussian = use_gaussian
        self.verbose, self.verbose_preprocessing, self.allow_tqdm = verbose, verbose_preprocessing, allow_tqdm

    @staticmethod
    def auto_detect_available_folds(model_training_output_dir: PathLike, checkpoint_name: str) -> list[int]:
        return available_folds(Path(model_training_output_dir), checkpoint_name)

    @on_cpu_by_default
    def initialize_from_trained_model_folder(
        self, model_training_output_dir: PathLike, use_folds: Sequence[int | str] | int | str | None,
        checkpoint_name: str = "checkpoint_final.pth",
    ) -> None:
        """Load a model folder; several folds are averaged, None takes all that are there."""
        if isinstance(use_folds, (int, str)):
            use_folds = (use_folds,)
        start = time.perf_counter()
        begin_cuda(self.device)
        model = find_model(Path(os.path.abspath(model_training_output_dir)), use_folds, checkpoint_name)  # weights may be read again after a chdir
        refuse_other_plans(model)
        engines = model.make_engines(self.device, self.mode, self.engine_wish or "auto")
        self.evidence = model.evidence_heads()
        self._set_up(engines, model.plans_manager, model.configuration_manager, model.dataset_json, model.trainer_name,
                     model.mirror_axes, model.has_class_head, model.takes_any_size)
        self._network_is_in(model)
        self.made_by = model_record(model.checkpoints, model.plans_manager.plans, model.dataset_json)  # now: a checkpoint may be replaced
        self.seconds_to_load = time.perf_counter() - start

    @on_cpu_by_default
    def manual_initialization(
        self, network: nn.Module, plans_manager: PlansManager, configuration_manager: ConfigurationManager,
        parameters: list[dict] | None, dataset_json: dict, trainer_name: str,
        inference_allowed_mirroring_axes: tuple[int, ...] | None, evidence: Sequence[EvidenceHead | None] = (),
    ) -> None:
        """Use a network that is there already, as the trainer's validation does.

        parameters: None, or one state dict a fold, each loaded into a copy of `network`. evidence: of each fold; without, the network's own
        class head decides alone.
        """
        start = time.perf_counter()
        dataset_json = with_channel_names(dataset_json)
        self.evidence = list(evidence)
        networks = [network] if parameters is None or not isinstance(network, nn.Module) else [deepcopy(network) for _ in parameters]
        for fold, weights in zip(networks, parameters or ()):
            if isinstance(fold, nn.Module):  # what is none computes as it stands
                fold.load_state_dict(weights)
        geometry = network_geometry(configuration_manager, inference_allowed_mirroring_axes)
        on_cuda = self.device.type == "cuda"  # there an engine changes what it gets
        engines = [make_engine(lambda fold=fold: deepcopy(fold) if on_cuda else fold, self.device, self.mode.precision_on(self.device.type),
                               self.engine_wish or "torch", determine_num_input_channels(plans_manager, configuration_manager, dataset_json), geometry.divisor, patch_size=geometry.patch_size)
                   for fold in networks]
        self._set_up(engines, plans_manager, configuration_manager, dataset_json, trainer_name, inference_allowed_mirroring_axes,
                     getattr(network, "class_head", None) is not None, isinstance(getattr(network, "_orig_mod", network), UNet))
        self._network_is(network, parameters)
        self.made_by = None
        self.seconds_to_load = time.perf_counter() - start

    def _set_up(self, engines: Sequence[Engine], plans_manager: PlansManager, configuration_manager: ConfigurationManager,
                dataset_json: dict, trainer_name: str, mirror_axes: tuple[int, ...] | None, has_class_head: bool, takes_any_size: bool) -> None:
        self._takes_any_size = takes_any_size
        self.engines, self.case_predictor = engines, None
        self.plans_manager, self.configuration_manager = plans_manager, configuration_manager
        self.dataset_json, self.trainer_name, self.allowed_mirroring_axes = dataset_json, trainer_name, mirror_axes
        self.label_manager = plans_manager.get_label_manager(dataset_json)
        self.task = ClassificationTask.from_dataset_json(dataset_json, self.label_manager.foreground_labels) if has_class_head else None
        if has_class_head and self.task is None:
            raise ValueError("The network has a class head, but dataset.json has no key 'classification' that names its classes.")
        self.preprocessor = configuration_manager.preprocessor_class(verbose=self.verbose_preprocessing)
        self._coarse_network = None if self.roi_model is None else load_coarse_network(
            Path(self.roi_model), plans_manager, configuration_manager, dataset_json, self.device, self.mode, self.engine_wish or "auto")
        self._make_case_predictor()

    def _make_case_predictor(self) -> None:
        self.case_predictor = CasePredictor(
            self.engines, network_geometry(self.configuration_manager, self.allowed_mirroring_axes),
            replace(self.mode, tta=self.mode.tta if self.use_mirroring else 1, in_turn=self.mode.in_turn and self.use_mirroring,
                    tile_step_size=self.tile_step_size, tiling=self.mode.tiling if self._takes_any_size else "windows"), self.label_manager,
            None if self.task is None else self.configuration_manager.class_head["lesion_labels"], self.device,
            self.use_gaussian, self.allow_tqdm, self._coarse_network, self.evidence,
            measurement_of(self.plans_manager, self.configuration_manager) if any(head is not None for head in self.evidence) else None,
            self.perform_everything_on_device)

    def __setattr__(self, name: str, value: Any) -> None:
        """What upstream's predictor looks up in every prediction may be set between two here as well."""
        super().__setattr__(name, value)
        if name in ("allowed_mirroring_axes", "tile_step_size", "use_gaussian", "use_mirroring", "perform_everything_on_device", "configuration_manager",
                    "label_manager"):
            super().__setattr__("_settings_changed", True)

    def _data(self, data: Tensor | np.ndarray) -> Tensor:
        """Preprocessed data as float32. A network handed over may take other channels than the plans say."""
        return as_float32(data, None if self._model is None else determine_num_input_channels(self.plans_manager, self.configuration_manager, self.dataset_json))

    def predict_case_logits(self, data: Tensor | np.ndarray) -> tuple[Tensor, np.ndarray | None]:
        """Preprocessed data (C, D, H, W) -> logits (S, D, H, W) and class probabilities (n,), None without class head."""
        self._refuse_without_model()
        prediction = self._predict_data(self._data(data))
        return prediction.full_logits(self.label_manager.has_regions), prediction.class_probabilities

    def predict_logits_from_preprocessed_data(self, data: Tensor | np.ndarray) -> Tensor:
        """Logits (S, D, H, W) on the grid of `data` (C, D, H, W), mean over folds. A cascade's input has its one-hot stage on top."""
        self._refuse_without_model()
        data = self._data(data)
        if self._has_own_steps():
            return self._mean_of_networks(data)
        return self.case_predictor(data).full_logits(self.label_manager.has_regions)

    def predict_single_npy_array(
        self, input_image: np.ndarray, image_properties: dict, segmentation_previous_stage: np.ndarray | None = None,
        output_file_truncated: PathLike | None = None, save_or_return_probabilities: bool = False, return_classification: bool = False,
        progress: Callable[[Progress], None] | None = None, cancelled: Cancelled | None = None,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray] | CaseResult | None:
        """Image (C, Z, Y, X) and properties, at least `spacing` in mm, as the reader gives them -> mask (Z, Y, X).

        With `save_or_return_probabilities` (mask, probabilities (S, Z, Y, X)); with `return_classification` a CaseResult, which has the
        class and the volumes too; with `output_file_truncated` files, the class tables' rows included. progress, cancelled: see `Watch`.
        InputError for an image or a spacing that cannot be segmented.
        """
        output = None if output_file_truncated is None else output_path(output_file_truncated)
        run = self._new_run(save_or_return_probabilities, return_classification, progress, cancelled, 1)
        case = Case("the image" if output is None else output.name, (), output)
        data, properties = self._preprocess(input_image, image_properties, segmentation_previous_stage, case, run)
        return self._export(case, properties, self._predict(case, data, run, properties), run)

    def predict_sitk_images(
        self, images: sitk.Image | Sequence[sitk.Image], previous_stage: sitk.Image | None = None, return_probabilities: bool = False,
        progress: Callable[[Progress], None] | None = None, cancelled: Cancelled | None = None,
    ) -> CaseResult:
        """One case as SimpleITK images, one a channel, and, for a cascade, the mask of its previous stage. The result lies on their grid."""
        self._refuse_without_model()
        image, properties = from_sitk(images)
        previous, of_previous = (None, {}) if previous_stage is None else from_sitk(previous_stage)
        if previous is not None and (problem := off_its_image("previous_stage", properties, of_previous, image.shape[1:], previous.shape[1:])):
            raise InputError(problem)
        given = properties
        if getattr(self.plans_manager.image_reader_writer_class, "turns_to_ras", False):  # as its files were for the training
            image, properties = turned_to_ras(image, given, "the image")
            previous = None if previous is None else turned_to_ras(previous, given, "previous_stage")[0]
        result = self.predict_single_npy_array(image, properties, previous, None, return_probabilities, True, progress, cancelled)
        return as_its_image(result, given)

    def predict_from_files(
        self,
        list_of_lists_or_source_folder: PathLike | Sequence[Sequence[PathLike]],
        output_folder_or_list_of_truncated_output_files: PathLike | Sequence[PathLike] | None,
        save_probabilities: bool = False,
        overwrite: bool = True,
        num_processes_preprocessing: int = 1,
        num_processes_segmentation_export: int = 1,
        folder_with_segs_from_prev_stage: PathLike | None = None,
        num_parts: int = 1,
        part_id: int = 0,
        return_classification: bool = False,
        progress: Callable[[Progress], None] | None = None,
        cancelled: Cancelled | None = None,
        use_cropped_logits_resampling: bool = True,
    ) -> list[Any]:
        """Predict a folder, or lists of one file per channel.

        Writes masks, with a class head the two class tables, and what postprocessing and ensembling read (dataset.json,
        plans.json). Without output (None) the masks are returned, (mask, probabilities) with `save_probabilities`, or, with
        `return_classification`, a CaseResult each. overwrite=False keeps cases that are complete and whole. `num_processes_*` are threads:
        cases read ahead, exports at a time; 0 does one after the other. progress, cancelled: see `Watch`.
        use_cropped_logits_resampling has no effect: TotalSegmentator asks for it by name, and here logits are always resampled in the box of the labels.
        Raises InputError before anything is computed for cases whose results would be mixed up (`list_cases`), CasesFailed at the end,
        listing all, if cases failed: its `results` are those of the others. PredictionCancelled and KeyboardInterrupt leave what is done.
        """
        self._refuse_without_model()
        if not 0 <= part_id < num_parts:
            raise InputError(f"part_id is {part_id} of {num_parts} parts; parts count from 0.")
        refuse_thread_counts(num_processes_preprocessing, num_processes_segmentation_export)
        self._check_previous_stage(folder_with_segs_from_prev_stage is not None, "its output folder (-prev_stage_predictions)")
        if self._overrides("_manage_input_and_output_lists", "_internal_get_data_iterator_from_lists_of_filenames", "predict_from_data_iterator"):
            lists = self._manage_input_and_output_lists(list_of_lists_or_source_folder, output_folder_or_list_of_truncated_output_files,
                                                        folder_with_segs_from_prev_stage, overwrite, part_id, num_parts, save_probabilities)
            return self._predict_through_iterator(*lists, save_probabilities, num_processes_preprocessing, num_processes_segmentation_export)
        cases = list_cases(list_of_lists_or_source_folder, output_folder_or_list_of_truncated_output_files, self.dataset_json["file_ending"],
                           folder_with_segs_from_prev_stage)[part_id::num_parts]
        with prediction_locks(cases, part_id, num_parts):
            folders = self._output_folders(cases, part_id, num_parts)
            n_all = len(cases)
            if not overwrite:
                done = folders.done(save_probabilities)
                cases = [case for case in cases if case.position not in done]
            folders.begin(cases)
            print(f"{len(cases)} of {n_all} cases to predict{f', part {part_id} of {num_parts}' if num_parts > 1 else ''}; "
                  f"mode {self.mode_name}, {self.engines[0].name} on {self.device.type}, {self._precision_in_words()}.")
            run = PredictionRun(save_probabilities, return_classification, Watch(progress, cancelled, len(cases), {case.position: i for i, case in enumerate(cases)}), folders, from_files=True)
            return self._run_cases(cases, lambda case: self._read(case, run), run, num_processes_preprocessing, num_processes_segmentation_export)

    def _precision_in_words(self) -> str:
        precision = self.engines[0].precision
        if precision == "fp32" and self.mode.precision == "reduced":
            return "fp32 (on this CPU bf16 would be slower" + ("; nnUNetv2_quantize once gives int8, which is faster)" if cpu_has_fast_int8() else ")")
        return precision


def run_prediction(
    input_folder: PathLike,
    output_folder: PathLike,
    model_folder: PathLike,
    folds: Sequence[int | str] | None = None,
    checkpoint: str = "checkpoint_final.pth",
    mode: str = "exact",
    precision: str | None = None,
    tta: int | None = None,
    tiling: str | None = None,
    roi: str | None = None,
    engine: str = "auto",
    roi_model: PathLike | None = None,
    tile_step_size: float | None = None,
    save_probabilities: bool = False,
    overwrite: bool = True,
    num_processes_preprocessing: int = 1,
    num_processes_segmentation_export: int = 1,
    folder_with_segs_from_prev_stage: PathLike | None = None,
    num_parts: int = 1,
    part_id: int = 0,
    device: torch.device = torch.device("cuda"),
    verbose: bool = False,
    allow_tqdm: bool = True,
    dicom_seg: bool = False,
    dicom_images: PathLike | None = None,
    raise_failures: bool = False,
    perform_everything_on_device: bool = True,
) -> int:
    """`nnUNetv2_predict` as a function: the exit status, 1 if cases failed (they are listed), else 0.

    raise_failures: InputError with the list, instead of a status.
    An input folder that holds DICOM series and no images is converted into `dicom_images` first; see `dicom_cases`.
    """
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(available_cores())
    predictor = nnUNetPredictor(
        tile_step_size=0.5 if tile_step_size is None else tile_step_size, device=device,
        verbose=verbose, verbose_preprocessing=verbose,
        allow_tqdm=allow_tqdm, mode=mode, precision=precision, tta=tta, tiling=tiling, roi=roi, engine=engine,
        roi_model=roi_model, perform_everything_on_device=perform_everything_on_device)
    dicom = refuse_before_loading(input_folder, output_folder, Path(model_folder) / "dataset.json", dicom_seg, dicom_images)
    source, target = (input_folder, output_folder) if dicom is None else (dicom.images, dicom.outputs)
    predictor.initialize_from_trained_model_folder(model_folder, folds, checkpoint)
    failures, messages = {}, []
    try:
        predictor.predict_from_files(
            source, target, save_probabilities, overwrite, num_processes_preprocessing,
            num_processes_segmentation_export, folder_with_segs_from_prev_stage, num_parts, part_id)
    except CasesFailed as failed:
        if verbose:
            for error in failed.failures.values():
                traceback.print_exception(error)
        failures = failed.failures
        messages.append(f"{failed}\nMend or remove what failed, and run the command again with --continue_prediction: finished cases are kept.")
    except KeyboardInterrupt:
        print(f"interrupted; finished cases are in {output_folder}, and --continue_prediction goes on from there", file=sys.stderr)
        return 130
    if dicom is not None:
        messages += dicom.finish(failures.keys(), part_id, num_parts)
    if messages and raise_failures:
        raise InputError("\n".join(messages))
    if messages:
        print("error: " + "\n".join(messages), file=sys.stderr)
    return int(bool(messages))


def refuse_before_loading(input_folder: PathLike, output_folder: PathLike, dataset_json: Path, dicom_seg: bool, dicom_images: PathLike | None) -> DicomCases | None:
    """What needs no network to be refused: an input folder without cases, cases that would overwrite each other, an output folder that is read-only.

    Where the folder holds DICOM series they are converted.
    """
    dicom = None
    plans = dataset_json.with_name("plans.json")
    if dataset_json.is_file() and plans.is_file():  # otherwise the model's loading says all that is missing
        content = load_json(dataset_json, DatasetJson)
        refuse_unread_ending(content["file_ending"], PlansManager(plans).image_reader_writer_class, dataset_json)
        dicom = dicom_cases(input_folder, output_folder, content, dataset_json.parent, dicom_seg, dicom_images)
        source, target = (input_folder, output_folder) if dicom is None else (dicom.images, dicom.outputs)
        list_cases(source, target, content["file_ending"])
    refuse_unwritable(output_folder)
    return dicom
