"""Predict images with a trained model.

    predictor = nnUNetPredictor(device=torch.device("cuda"), mode="fast")
    predictor.initialize_from_trained_model_folder("nnUNet_results/Dataset777_PancreasCT/nnUNetTrainer__nnUNetResEncUNetMPlans__3d_fullres", (0,))
    predictor.predict_from_files("imagesTs", "predictions")
    mask = predictor.predict_single_npy_array(*SimpleITKIO().read_images(["case_0000.nii.gz"]))

Upstream's class and method names; `mode` and its levers (inference/modes.py) are added. A predictor keeps its model for
any number of calls.
"""

import os
import sys
import time
import traceback
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nnunetv2.configuration import available_cores
from nnunetv2.inference.case_prediction import CasePrediction, CasePredictor
from nnunetv2.inference.class_tables import ClassTables
from nnunetv2.inference.engines import Engine, make_engine
from nnunetv2.inference.export_prediction import convert_prediction_to_segmentation, write_prediction
from nnunetv2.inference.model_loading import available_folds, find_model, load_coarse_network
from nnunetv2.inference.modes import cpu_has_fast_int8, inference_mode
from nnunetv2.inference.network_geometry import network_geometry
from nnunetv2.inference.pipeline import Case, CasesFailed, Pipeline, StageTimes
from nnunetv2.utilities.classification import ClassificationTask
from nnunetv2.utilities.dataset_files import create_lists_from_splitted_dataset_folder
from nnunetv2.utilities.files import remove_leftovers, save_json
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

PathLike = str | os.PathLike


class nnUNetPredictor:
    """Loaded model plus the way it is run. `initialize_from_trained_model_folder` or `manual_initialization` comes first."""

    def __init__(
        self,
        tile_step_size: float = 0.5,
        use_gaussian: bool = True,
        use_mirroring: bool = True,
        perform_everything_on_device: bool = True,
        device: torch.device = torch.device("cuda"),
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

        perform_everything_on_device is accepted for upstream's sake: volumes stay in main memory, and only windows go to the device.

        roi_model: folder of another model, trained on a coarser grid, that finds the boxes of roi "coarse"; its first fold is used.

        engine: "torch", "openvino", "winograd" or "auto"; None is "auto" for a trained model's folder and "torch" for a network handed over.
        """
        if not use_mirroring and tta not in (None, 1):
            raise ValueError(f"use_mirroring=False and tta={tta} contradict each other.")
        self.mode_name = mode
        self.mode = inference_mode(mode, precision=precision, tta=tta if use_mirroring else 1, tiling=tiling, roi=roi,
                                   tile_step_size=tile_step_size)
        if roi_model is not None and self.mode.roi == "none":
            raise ValueError(f"roi_model finds boxes, but mode {mode!r} segments whole volumes; choose --mode fast or --roi coarse.")
        self.device, self.engine_wish, self.roi_model = device, engine, roi_model
        self.use_gaussian = use_gaussian
        self.verbose, self.verbose_preprocessing, self.allow_tqdm = verbose, verbose_preprocessing, allow_tqdm

    @staticmethod
    def auto_detect_available_folds(model_training_output_dir: PathLike, checkpoint_name: str) -> list[int]:
        return available_folds(Path(model_training_output_dir), checkpoint_name)

    def initialize_from_trained_model_folder(
        self, model_training_output_dir: PathLike, use_folds: Sequence[int | str] | int | str | None,
        checkpoint_name: str = "checkpoint_final.pth",
    ) -> None:
        """Load a model folder; several folds are averaged, None takes all that are there."""
        if isinstance(use_folds, (int, str)):
            use_folds = (use_folds,)
        start = time.perf_counter()
        model = find_model(Path(model_training_output_dir), use_folds, checkpoint_name)
        engines = model.make_engines(self.device, self.mode, self.engine_wish or "auto")
        self._set_up(engines, model.plans_manager, model.configuration_manager, model.dataset_json, model.trainer_name,
                     model.mirror_axes, model.has_class_head)
        self.seconds_to_load = time.perf_counter() - start

    def manual_initialization(
        self, network: nn.Module, plans_manager: PlansManager, configuration_manager: ConfigurationManager,
        parameters: list[dict] | None, dataset_json: dict, trainer_name: str,
        inference_allowed_mirroring_axes: tuple[int, ...] | None,
    ) -> None:
        """Use a network that is there already, as the trainer's validation does.

        parameters: None, or one state dict a fold, each loaded into a copy of `network`.
        """
        start = time.perf_counter()
        networks = [network] if parameters is None else [deepcopy(network) for _ in parameters]
        for fold, weights in zip(networks, parameters or ()):
            fold.load_state_dict(weights)
        geometry = network_geometry(configuration_manager, inference_allowed_mirroring_axes)
        on_cuda = self.device.type == "cuda"  # there an engine changes what it gets
        engines = [make_engine(lambda fold=fold: deepcopy(fold) if on_cuda else fold, self.device, self.mode.precision_on(self.device.type),
                               self.engine_wish or "torch", len(dataset_json["channel_names"]), geometry.divisor, patch_size=geometry.patch_size)
                   for fold in networks]
        self._set_up(engines, plans_manager, configuration_manager, dataset_json, trainer_name, inference_allowed_mirroring_axes,
                     getattr(network, "class_head", None) is not None)
        self.seconds_to_load = time.perf_counter() - start

    def _set_up(self, engines: Sequence[Engine], plans_manager: PlansManager, configuration_manager: ConfigurationManager,
                dataset_json: dict, trainer_name: str, mirror_axes: tuple[int, ...] | None, has_class_head: bool) -> None:
        self.engines = engines
        self.plans_manager, self.configuration_manager = plans_manager, configuration_manager
        self.dataset_json, self.trainer_name, self.allowed_mirroring_axes = dataset_json, trainer_name, mirror_axes
        self.label_manager = plans_manager.get_label_manager(dataset_json)
        self.task = ClassificationTask.from_dataset_json(dataset_json, self.label_manager.foreground_labels) if has_class_head else None
        if has_class_head and self.task is None:
            raise ValueError("The network has a class head, but dataset.json has no key 'classification' that names its classes.")
        self.preprocessor = configuration_manager.preprocessor_class(verbose=self.verbose_preprocessing)
        self.case_predictor = CasePredictor(
            engines, network_geometry(configuration_manager, mirror_axes), self.mode, self.label_manager,
            None if self.task is None else configuration_manager.class_head["lesion_labels"], self.device,
            self.use_gaussian, self.allow_tqdm,
            None if self.roi_model is None else load_coarse_network(
                Path(self.roi_model), plans_manager, configuration_manager, dataset_json, self.device, self.mode, self.engine_wish or "auto"))

    def predict_case_logits(self, data: Tensor | np.ndarray) -> tuple[Tensor, np.ndarray | None]:
        """Preprocessed data (C, D, H, W) -> logits (S, D, H, W) and class probabilities (n,), None without class head."""
        prediction = self.case_predictor(torch.as_tensor(data))
        return prediction.full_logits(self.label_manager.has_regions), prediction.class_probabilities

    def predict_logits_from_preprocessed_data(self, data: Tensor | np.ndarray) -> Tensor:
        """Logits (S, D, H, W) on the grid of `data` (C, D, H, W), mean over folds. A cascade's input has its one-hot stage on top."""
        return self.predict_case_logits(data)[0]

    def predict_single_npy_array(
        self, input_image: np.ndarray, image_properties: dict, segmentation_previous_stage: np.ndarray | None = None,
        output_file_truncated: PathLike | None = None, save_or_return_probabilities: bool = False,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray] | None:
        """Image (C, Z, Y, X) and properties, at least `spacing` in mm, as the reader gives them -> mask (Z, Y, X).

        With `save_or_return_probabilities` (mask, probabilities (S, Z, Y, X)); with `output_file_truncated` files instead.
        """
        data, properties = self._preprocess(input_image, image_properties, segmentation_previous_stage)
        mask, probabilities = self._to_image_grid(self.case_predictor(data), properties, save_or_return_probabilities)
        if output_file_truncated is not None:
            return write_prediction(mask, probabilities, properties, self.plans_manager, output_file_truncated, self.dataset_json["file_ending"])
        return (mask, probabilities) if save_or_return_probabilities else mask

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
    ) -> list[Any]:
        """Predict a folder, or lists of one file per channel.

        Writes masks, with a class head the two class tables, and what postprocessing and ensembling read (dataset.json,
        plans.json). Without output (None) the masks are returned, (mask, probabilities) with `save_probabilities`.
        overwrite=False keeps cases that are complete. `num_processes_*` are threads: cases read ahead, exports at a time.
        Raises CasesFailed at the end, listing all, if cases failed.
        """
        if not 0 <= part_id < num_parts:
            raise ValueError(f"part_id is {part_id} of {num_parts} parts; parts count from 0.")
        previous = self.configuration_manager.previous_stage_name
        if (previous is None) != (folder_with_segs_from_prev_stage is None):
            raise ValueError(f"This configuration refines the masks of {previous}: predict with that first and pass its output folder "
                             "(-prev_stage_predictions)." if previous else
                             "Only a cascaded configuration takes -prev_stage_predictions; this one has no previous stage.")
        cases = self._list_cases(list_of_lists_or_source_folder, output_folder_or_list_of_truncated_output_files,
                                 folder_with_segs_from_prev_stage)[part_id::num_parts]
        folder = cases[0].output.parent if cases and cases[0].output is not None else None
        tables = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            save_json(self.dataset_json, folder / "dataset.json")
            save_json(self.plans_manager.plans, folder / "plans.json")
            tables = None if self.task is None else ClassTables(self.task, folder, part_id, num_parts)
            remove_leftovers(*(f"{case.output}{ending}" for case in cases for ending in (self.dataset_json["file_ending"], ".npz", ".pkl")))
        n_all = len(cases)
        if folder is not None and not overwrite:
            done = self._done(cases, tables, save_probabilities)
            cases = [case for case in cases if case.name not in done]
        print(f"{len(cases)} of {n_all} cases to predict{f', part {part_id} of {num_parts}' if num_parts > 1 else ''}; "
              f"mode {self.mode_name}, {self.engines[0].name} on {self.device.type}, {self._precision_in_words()}.")

        start, times = time.perf_counter(), StageTimes()
        pipeline = Pipeline(
            prepare=lambda case: self._prepare(case, times),
            predict=lambda case, data: self._predict(case, data, times),
            export=lambda case, properties, prediction: self._export(case, properties, prediction, save_probabilities, tables, times),
            readers=num_processes_preprocessing, writers=num_processes_segmentation_export, progress=self.allow_tqdm)
        try:
            return pipeline.run(cases)
        finally:
            if folder is not None:
                part = f"_part_{part_id}_of_{num_parts}" if num_parts > 1 else ""
                save_json(self._report(times, time.perf_counter() - start), folder / f"prediction_times{part}.json")

    def _precision_in_words(self) -> str:
        precision = self.engines[0].precision
        if precision == "fp32" and self.mode.precision == "reduced":
            return "fp32 (on this CPU bf16 would be slower" + ("; nnUNetv2_quantize once gives int8, which is faster)" if cpu_has_fast_int8() else ")")
        return precision

    def _list_cases(self, source: PathLike | Sequence[Sequence[PathLike]], output: PathLike | Sequence[PathLike] | None,
                    previous_stage: PathLike | None) -> list[Case]:
        ending = self.dataset_json["file_ending"]
        if isinstance(source, (str, os.PathLike)):
            source = create_lists_from_splitted_dataset_folder(source, ending)
        names = [Path(files[0]).name.removesuffix(ending)[: -len("_0000")] for files in source]
        if output is None:
            outputs = [None] * len(names)
        elif isinstance(output, (str, os.PathLike)):
            outputs = [Path(output) / name for name in names]
        else:
            outputs = [Path(path) for path in output]
        if len(outputs) != len(names):
            raise ValueError(f"{len(names)} cases but {len(outputs)} output files.")
        return [Case(name, tuple(map(str, files)), target, Path(previous_stage) / f"{name}{ending}" if previous_stage else None)
                for name, files, target in zip(names, source, outputs)]

    def _done(self, cases: Sequence[Case], tables: ClassTables | None, save_probabilities: bool) -> set[str]:
        """Cases whose files are all there, the row in the class tables included."""
        endings = [self.dataset_json["file_ending"], *((".npz", ".pkl") if save_probabilities else ())]
        rows = None if tables is None else tables.names()
        return {case.name for case in cases
                if all(Path(f"{case.output}{ending}").is_file() for ending in endings)
                and (rows is None or f"{case.output.name}{endings[0]}" in rows)}

    def _preprocess(self, image: np.ndarray, properties: dict, previous_stage: np.ndarray | None) -> tuple[Tensor, dict]:
        data, seg, properties = self.preprocessor.run_case_npy(
            image, previous_stage, properties, self.plans_manager, self.configuration_manager, self.dataset_json)
        if previous_stage is not None:
            one_hot = np.stack([seg[0] == label for label in self.label_manager.foreground_labels])
            data = np.concatenate([data, one_hot.astype(data.dtype)])
        return torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32)), properties

    def _prepare(self, case: Case, times: StageTimes) -> tuple[Tensor, dict]:
        reader = self.plans_manager.image_reader_writer_class()
        with times.stage(case.name, "read"):
            image, properties = reader.read_images(case.images)
            previous = None if case.previous_stage is None else reader.read_seg(case.previous_stage)[0]
        with times.stage(case.name, "preprocess"):
            return self._preprocess(image, properties, previous)

    def _predict(self, case: Case, data: Tensor, times: StageTimes) -> CasePrediction:
        with times.stage(case.name, "network"):
            return self.case_predictor(data, case.name)

    def _to_image_grid(self, prediction: CasePrediction, properties: dict, probabilities: bool) -> tuple[np.ndarray, np.ndarray | None]:
        return convert_prediction_to_segmentation(
            prediction, properties, self.plans_manager, self.configuration_manager, self.label_manager, probabilities)

    def _export(self, case: Case, properties: dict, prediction: CasePrediction, save_probabilities: bool,
                tables: ClassTables | None, times: StageTimes) -> Any:
        with times.stage(case.name, "resample"):
            mask, probabilities = self._to_image_grid(prediction, properties, save_probabilities)
        if case.output is None:
            return (mask, probabilities) if save_probabilities else mask
        ending = self.dataset_json["file_ending"]
        with times.stage(case.name, "write"):
            if tables is not None:
                tables.add(f"{case.output.name}{ending}", prediction.class_probabilities)
            write_prediction(mask, probabilities, properties, self.plans_manager, case.output, ending)
        return None

    def _report(self, times: StageTimes, wall: float) -> dict:
        """Seconds; stages of different cases overlap."""
        return {"mode": self.mode_name, **vars(self.mode), "roi_model": self.roi_model and str(self.roi_model),
                "engine": self.engines[0].name, "computed_in": self.engines[0].precision, "device": self.device.type,
                "threads": torch.get_num_threads(), "model": round(self.seconds_to_load, 4), "cases_wall": round(wall, 4), "cases": times.seconds}


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
) -> int:
    """`nnUNetv2_predict` as a function: the exit status, 1 if cases failed (they are listed), else 0."""
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(available_cores())
    predictor = nnUNetPredictor(
        tile_step_size=0.5 if tile_step_size is None else tile_step_size, device=device,
        verbose=verbose, verbose_preprocessing=verbose,
        allow_tqdm=allow_tqdm, mode=mode, precision=precision, tta=tta, tiling=tiling, roi=roi, engine=engine,
        roi_model=roi_model)
    predictor.initialize_from_trained_model_folder(model_folder, folds, checkpoint)
    try:
        predictor.predict_from_files(
            input_folder, output_folder, save_probabilities, overwrite, num_processes_preprocessing,
            num_processes_segmentation_export, folder_with_segs_from_prev_stage, num_parts, part_id)
    except CasesFailed as failed:
        if verbose:
            for error in failed.failures.values():
                traceback.print_exception(error)
        print(failed, file=sys.stderr)
        return 1
    return 0
