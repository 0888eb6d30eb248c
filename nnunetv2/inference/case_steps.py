"""What happens to one case on its way through a predictor: read, preprocess, network, resample, write."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunetv2.imageio.geometry import off_its_image
from nnunetv2.imageio.image_arrays import check_image, single_slice
from nnunetv2.inference.case_prediction import CasePrediction
from nnunetv2.inference.case_result import as_its_image, case_result
from nnunetv2.inference.export_prediction import convert_prediction_to_segmentation, write_prediction
from nnunetv2.inference.output_folders import OutputFolders
from nnunetv2.inference.pipeline import Case, CasesFailed, Pipeline, refuse_thread_counts
from nnunetv2.inference.prediction_run import PredictionRun
from nnunetv2.inference.watch import Cancelled, Progress, Watch
from nnunetv2.preprocessing.intensity_check import intensity_warnings
from nnunetv2.utilities.default_device import on_cpu_by_default
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.prediction_manifest import model_record


class CaseSteps:
    """The steps of nnUNetPredictor's methods, which have the loaded model as attributes."""

    made_by: dict[str, Any] | None = None  # what a manifest says of the model; None for a network handed over

    def _run_cases(self, cases: Iterable[Case], prepare: Callable[[Case], tuple[Tensor, dict]], run: PredictionRun, readers: int, writers: int) -> list[Any]:
        """Results of `cases`; what failed, and files of the run that the disk did not take, in one CasesFailed at the end."""
        refuse_thread_counts(readers, writers)
        start = time.perf_counter()
        of_case: dict[int, dict] = {}

        def prepare_and_keep(case: Case) -> tuple[Tensor, dict]:
            data, properties = prepare(case)
            of_case[case.position] = properties
            return data, properties

        pipeline = Pipeline(prepare_and_keep, predict=lambda case, data: self._predict(case, data, run, of_case.pop(case.position, None)),
                            export=lambda case, properties, prediction: self._export(case, properties, prediction, run),
                            readers=readers, writers=writers, progress=self.allow_tqdm)
        failed: CasesFailed | None = None
        try:
            results = pipeline.run(cases)
        except CasesFailed as error:
            failed, results = error, error.results
        finally:
            unwritten = run.folders.finish(self._settings() | run.report(time.perf_counter() - start, failed))
        run.say_what_was_left_out()
        if failed is not None or unwritten:
            raise CasesFailed(failed.failures if failed else {}, len(results), results, failed.not_begun if failed else 0, unwritten)
        return results

    def _predict_data(self, data: Tensor, name: str = "this case", on_window: Callable[[int, int], None] | None = None,
                      properties: Mapping[str, Any] | None = None, decide: bool = True) -> CasePrediction:
        """Through the methods that somebody replaced, if there are any, and through the network itself where it was altered."""
        if self._overrides("predict_logits_from_preprocessed_data") or self._has_own_steps():
            return self.case_predictor.with_class(data, torch.as_tensor(self.predict_logits_from_preprocessed_data(data)).cpu(), properties)
        return self.case_predictor(data, name, on_window, properties, decide)

    def _output_folders(self, cases: Sequence[Case], part_id: int = 0, num_parts: int = 1) -> OutputFolders:
        made_with = self._made_with() if cases else {}
        return OutputFolders(cases, self.dataset_json, self.plans_manager.plans, self.task, made_with, part_id, num_parts)

    def _made_with(self) -> dict[str, Any]:
        """What the manifest of the output says of model and settings. Device and engine are no part of it: masks of both go together."""
        settings = {"mode": self.mode_name, **vars(self.mode), "gaussian": self.use_gaussian, "roi_model": self._coarse_network and self._coarse_network.weights}
        handed_over = {} if self.made_by else {"networks": self.hashes_of_networks()}
        return {"model": self.made_by or model_record((), self.plans_manager.plans, self.dataset_json) | handed_over, "settings": settings}

    def _new_run(self, probabilities: bool, classification: bool, progress: Callable[[Progress], None] | None, cancelled: Cancelled | None,
                 n_cases: int | None) -> PredictionRun:
        """A run whose outputs, if any, are no folder of its own: nothing but masks and class tables is written."""
        self._refuse_without_model()
        return PredictionRun(probabilities, classification, Watch(progress, cancelled, n_cases), self._output_folders(()))

    def _refuse_without_model(self) -> None:
        if self.case_predictor is None:
            missing = [name for name in ("network", "plans_manager", "configuration_manager", "dataset_json") if getattr(self, name) is None]
            some = "" if len(missing) == 4 else f" {', '.join(missing)} of the predictor {'is' if len(missing) == 1 else 'are'} still None."
            raise InputError(f"No model is loaded: call initialize_from_trained_model_folder or manual_initialization first.{some}")

    def _check_previous_stage(self, given: bool, what: str) -> None:
        previous = self.configuration_manager.previous_stage_name
        if (previous is None) == given:
            raise InputError(f"This configuration refines the masks of {previous}: predict with that first and pass {what}." if previous else
                             f"Only a cascaded configuration takes masks of a previous stage; this one has none, so leave out {what}.")

    def _preprocess(self, image: np.ndarray, properties: dict, previous_stage: np.ndarray | None, case: Case = Case("the image", (), None),
                    run: PredictionRun | None = None) -> tuple[Tensor, dict]:
        """Image (C, Z, Y, X), previous stage (1, Z, Y, X) or None -> data (C, D, H, W) with the stage's labels one-hot on top, properties."""
        run = run or self._new_run(False, False, None, None, 1)
        run.watch.part(case.label, case.position, "preprocess", 0, 1)
        with run.times.stage(case.label, "preprocess"):
            self._check_previous_stage(previous_stage is not None, "its mask")
            schemes = self.configuration_manager.normalization_schemes
            check_image(image, properties, len(schemes), case.label)
            image = image.view(np.uint8) if image.dtype == bool else image
            run.note_single_slice(case.label, single_slice(image, self.configuration_manager.patch_size))
            run.note_intensities(case.label, intensity_warnings(
                image, schemes, self.plans_manager.foreground_intensity_properties_per_channel))
            if previous_stage is not None and previous_stage.ndim == 3:
                previous_stage = previous_stage[None]
            data, seg, properties = self.preprocessor.run_case_npy(
                image, previous_stage, properties, self.plans_manager, self.configuration_manager, self.dataset_json)
            if previous_stage is not None:
                one_hot = np.stack([seg[0] == label for label in self.label_manager.foreground_labels])
                data = np.concatenate([data, one_hot.astype(data.dtype)])
        run.watch.part(case.label, case.position, "preprocess", 1, 1)
        return torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32)), properties

    def _read(self, case: Case, run: PredictionRun) -> tuple[Tensor, dict]:
        run.watch.part(case.label, case.position, "read", 0, 1)
        reader = self.plans_manager.image_reader_writer_class()
        with run.times.stage(case.label, "read"):
            image, properties = reader.read_images(case.images)
            previous = None if case.previous_stage is None else self._read_previous_stage(reader, case.previous_stage, image.shape[1:], properties)
        run.watch.part(case.label, case.position, "read", 1, 1)
        return self._preprocess(image, properties, previous, case, run)

    def _read_previous_stage(self, reader: Any, file: Path, shape: Sequence[int], of_image: Mapping[str, Any]) -> np.ndarray:
        """(1, Z, Y, X) of the cascade's previous stage; InputError that names the file where it lies off its image or has labels of another task."""
        mask, properties = reader.read_seg(file)
        if problem := off_its_image(file, of_image, properties, shape, mask.shape[1:]):
            raise InputError(problem)
        if unknown := sorted(set(np.unique(mask).tolist()) - {0, *self.label_manager.labels_of_masks}):
            raise InputError(f"{file} has the labels {unknown}, which this model does not know; give the masks that {self.configuration_manager.previous_stage_name} "
                             "of the same dataset predicted.")
        return mask

    def _predict(self, case: Case, data: Tensor, run: PredictionRun, properties: Mapping[str, Any] | None = None) -> CasePrediction:
        def on_window(done: int, of: int) -> None:
            run.watch.part(case.label, case.position, "network", done, of)

        run.watch.part(case.label, case.position, "network", 0, 1)
        with run.times.stage(case.label, "network"):
            prediction = self._predict_data(data, case.label, on_window, properties, decide=False)
        if prediction.roi is not None:
            run.roi[case.label] = prediction.roi.as_json()
        return prediction

    @on_cpu_by_default
    def _export(self, case: Case, properties: dict, prediction: CasePrediction, run: PredictionRun) -> Any:
        """Files, and the result where it is asked for."""
        run.watch.part(case.label, case.position, "classify", 0, 1)
        with run.times.stage(case.label, "classify"):
            prediction = prediction.decided()
        if prediction.lesion_found is False:
            run.note_no_lesion(case.label)
        run.watch.part(case.label, case.position, "classify", 1, 1)
        run.watch.part(case.label, case.position, "resample", 0, 1)
        with run.times.stage(case.label, "resample"):
            mask, probabilities = convert_prediction_to_segmentation(
                prediction, properties, self.plans_manager, self.configuration_manager, self.label_manager, run.probabilities)
        run.watch.part(case.label, case.position, "resample", 1, 1)
        if case.output is not None:
            run.watch.part(case.label, case.position, "write", 0, 1)
            with run.times.stage(case.label, "write"):
                if prediction.class_probabilities is not None:
                    run.folders.add_class(case, prediction.class_probabilities, prediction.lesion_found)
                write_prediction(mask, probabilities, properties, self.plans_manager, case.output, self.dataset_json["file_ending"])
            run.watch.part(case.label, case.position, "write", 1, 1)
        if run.classification:
            result = case_result(mask, probabilities, prediction, properties, self.dataset_json["labels"], self.task)
            return as_its_image(result) if run.from_files else result
        if case.output is not None:
            return None
        return (mask, probabilities) if run.probabilities else mask

    def _settings(self) -> dict:
        """How cases are predicted, for prediction_times.json."""
        return {"mode": self.mode_name, **vars(self.mode), "roi_model": self.roi_model and str(self.roi_model),
                "engine": self.engines[0].name, "computed_in": self.engines[0].precision, "device": self.device.type,
                "threads": torch.get_num_threads(), "model": round(self.seconds_to_load, 4)}
