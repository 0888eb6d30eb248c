"""Predictions of arrays and of iterators over preprocessed cases, with nnU-Net's names and arguments."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunetv2.inference.cases import list_cases, missing_outputs, output_path, refuse_collisions
from nnunetv2.inference.output_folders import prediction_locks
from nnunetv2.inference.pipeline import Case, refuse_thread_counts
from nnunetv2.utilities.errors import InputError

PathLike = str | os.PathLike


class ArrayPrediction:
    """The methods of nnUNetPredictor that take arrays or preprocessed cases. `num_processes*` are threads, 0 for none."""

    def predict_from_files_sequential(
        self, list_of_lists_or_source_folder: PathLike | Sequence[Sequence[PathLike]],
        output_folder_or_list_of_truncated_output_files: PathLike | Sequence[PathLike] | None, save_probabilities: bool = False,
        overwrite: bool = True, folder_with_segs_from_prev_stage: PathLike | None = None,
    ) -> list[Any]:
        """`predict_from_files`, one case after the other, without threads."""
        return self.predict_from_files(list_of_lists_or_source_folder, output_folder_or_list_of_truncated_output_files, save_probabilities, overwrite,
                                       0, 0, folder_with_segs_from_prev_stage)

    def predict_from_list_of_npy_arrays(
        self, image_or_list_of_images: np.ndarray | Sequence[np.ndarray],
        segs_from_prev_stage_or_list_of_segs_from_prev_stage: np.ndarray | Sequence[np.ndarray | None] | None,
        properties_or_list_of_properties: dict | Sequence[dict], truncated_ofname: PathLike | Sequence[PathLike | None] | None,
        num_processes: int = 3, save_probabilities: bool = False, num_processes_segmentation_export: int = 1,
        return_classification: bool = False, progress: Callable | None = None, cancelled: Any = None,
    ) -> list[Any]:
        """Images (C, Z, Y, X) with properties, at least `spacing`: masks, or files at `truncated_ofname`, as `predict_single_npy_array` has them.

        Raises CasesFailed at the end, listing all, if images failed; its `results` are those of the others.
        """
        self._refuse_without_model()
        if self._overrides("get_data_iterator_from_raw_npy_data", "predict_from_data_iterator"):
            iterator = self.get_data_iterator_from_raw_npy_data(image_or_list_of_images, segs_from_prev_stage_or_list_of_segs_from_prev_stage,
                                                                properties_or_list_of_properties, truncated_ofname, num_processes)
            return self.predict_from_data_iterator(iterator, save_probabilities, num_processes_segmentation_export)
        images, stages, properties, cases = self._cases_of_arrays(
            image_or_list_of_images, segs_from_prev_stage_or_list_of_segs_from_prev_stage, properties_or_list_of_properties, truncated_ofname)
        run = self._new_run(save_probabilities, return_classification, progress, cancelled, len(cases))

        def prepare(case: Case) -> tuple[Tensor, dict]:
            return self._preprocess(images[case.position], properties[case.position], stages[case.position], case, run)

        return self._run_cases(cases, prepare, run, min(num_processes, len(cases)), num_processes_segmentation_export)

    def predict_from_data_iterator(
        self, data_iterator: Iterable[dict], save_probabilities: bool = False, num_processes_segmentation_export: int = 1,
        return_classification: bool = False, progress: Callable | None = None, cancelled: Any = None,
    ) -> list[Any]:
        """Predict preprocessed cases, dicts of `data` (C, D, H, W), `data_properties` and `ofile`, where None returns the result.

        `data` may be the path of an .npy file, which is deleted once it is read.
        """
        items: dict[int, dict] = {}
        run = self._new_run(save_probabilities, return_classification, progress, cancelled, None)

        def cases() -> Iterator[Case]:
            for position, item in enumerate(data_iterator):
                _refuse_incomplete(item, position)
                items[position] = item
                yield _case_of_array(position, item["ofile"])

        written: dict[str, Case] = {}

        def prepare(case: Case) -> tuple[Tensor, dict]:
            item = items.pop(case.position)
            refuse_collisions([case], self.dataset_json["file_ending"], written)
            data = item["data"]
            if isinstance(data, (str, os.PathLike)):
                path, data = data, np.load(data)
                os.remove(path)
            return self._data(data), item["data_properties"]

        return self._run_cases(cases(), prepare, run, 0, num_processes_segmentation_export)

    def get_data_iterator_from_lists_of_filenames(
        self, input_list_of_lists: Sequence[Sequence[PathLike]], seg_from_prev_stage_files: Sequence[PathLike | None] | None = None,
        output_filenames_truncated: Sequence[PathLike | None] | None = None, num_processes: int = 3,
    ) -> Iterator[dict]:
        """Preprocessed cases for `predict_from_data_iterator`, read by `num_processes` threads, as many ahead."""
        self._refuse_without_model()
        cases = list_cases(input_list_of_lists, None, self.dataset_json["file_ending"])
        stages = [None] * len(cases) if seg_from_prev_stage_files is None else list(seg_from_prev_stage_files)
        outputs = [None] * len(cases) if output_filenames_truncated is None else list(output_filenames_truncated)
        _refuse_lengths({"images": cases, "previous stages": stages, "output files": outputs})
        run = self._new_run(False, False, None, None, len(cases))

        def item(case: Case, stage: PathLike | None, output: PathLike | None) -> dict:
            case = Case(case.name, case.images, None, None if stage is None else Path(stage), case.position, case.distinct_name)
            data, properties = self._read(case, run)
            return {"data": data, "data_properties": properties, "ofile": output}

        return read_ahead(item, list(zip(cases, stages, outputs)), num_processes)

    _internal_get_data_iterator_from_lists_of_filenames = get_data_iterator_from_lists_of_filenames  # upstream's name for it

    def _manage_input_and_output_lists(
        self, list_of_lists_or_source_folder: PathLike | Sequence[Sequence[PathLike]],
        output_folder_or_list_of_truncated_output_files: PathLike | Sequence[PathLike] | None, folder_with_segs_from_prev_stage: PathLike | None = None,
        overwrite: bool = True, part_id: int = 0, num_parts: int = 1, save_probabilities: bool = False,
    ) -> tuple[list[list[str]], list[str] | None, list[str | None]]:
        """Files, output without ending and mask of the previous stage of each case of this part; the outputs are None when the results are returned.

        overwrite False leaves out the cases whose files are there.
        """
        self._refuse_without_model()
        ending = self.dataset_json["file_ending"]
        cases = list_cases(list_of_lists_or_source_folder, output_folder_or_list_of_truncated_output_files, ending, folder_with_segs_from_prev_stage)[part_id::num_parts]
        returned = output_folder_or_list_of_truncated_output_files is None
        if not overwrite and not returned:
            absent = missing_outputs(cases, [ending, ".npz"] if save_probabilities else [ending])
            cases = [case for case in cases if case.position in absent]
        return ([list(case.images) for case in cases], None if returned else [str(case.output) for case in cases],
                [case.previous_stage and str(case.previous_stage) for case in cases])

    def _predict_through_iterator(self, images: Sequence[Sequence[PathLike]], outputs: Sequence[PathLike] | None, stages: Sequence[PathLike | None],
                                  save_probabilities: bool, readers: int, writers: int) -> list[Any]:
        """`predict_from_files` step by step, as upstream takes them, for who replaced one of these steps."""
        if not len(images):
            return []
        cases = list_cases(images, outputs, self.dataset_json["file_ending"])
        with prediction_locks(cases):
            folders = self._output_folders(cases)
            folders.begin(cases)
            iterator = self._internal_get_data_iterator_from_lists_of_filenames(images, stages, outputs, readers)
            results = self.predict_from_data_iterator(iterator, save_probabilities, writers)
            folders.finish(self._settings())
            return results

    def get_data_iterator_from_raw_npy_data(
        self, image_or_list_of_images: np.ndarray | Sequence[np.ndarray],
        segs_from_prev_stage_or_list_of_segs_from_prev_stage: np.ndarray | Sequence[np.ndarray | None] | None,
        properties_or_list_of_properties: dict | Sequence[dict], truncated_ofname: PathLike | Sequence[PathLike | None] | None, num_processes: int = 3,
    ) -> Iterator[dict]:
        """As `get_data_iterator_from_lists_of_filenames`, from arrays."""
        images, stages, properties, cases = self._cases_of_arrays(
            image_or_list_of_images, segs_from_prev_stage_or_list_of_segs_from_prev_stage, properties_or_list_of_properties, truncated_ofname)
        run = self._new_run(False, False, None, None, len(cases))

        def item(case: Case) -> dict:
            data, its_properties = self._preprocess(images[case.position], properties[case.position], stages[case.position], case, run)
            return {"data": data, "data_properties": its_properties, "ofile": case.output}

        return read_ahead(item, [(case,) for case in cases], num_processes)

    def _cases_of_arrays(self, images: Any, stages: Any, properties: Any, outputs: Any) -> tuple[list, list, list, list[Case]]:
        """Each argument as a list of one entry an image. InputError for lists of different lengths and for outputs that are one file."""
        self._refuse_without_model()
        images = [images] if isinstance(images, np.ndarray) else list(images)
        properties = [properties] if isinstance(properties, dict) else list(properties)
        stages = [None] * len(images) if stages is None else [stages] if isinstance(stages, np.ndarray) else list(stages)
        outputs = [None] * len(images) if outputs is None else [outputs] if isinstance(outputs, (str, os.PathLike)) else list(outputs)
        if not images:
            raise InputError("The list of images is empty.")
        _refuse_lengths({"images": images, "properties": properties, "previous stages": stages, "output files": outputs})
        cases = [_case_of_array(position, output) for position, output in enumerate(outputs)]
        refuse_collisions(cases, self.dataset_json["file_ending"])
        return images, stages, properties, cases


def _case_of_array(position: int, output: PathLike | None) -> Case:
    label = f"image {position + 1}"
    if output is None:
        return Case(label, (label,), None, position=position)
    path = output_path(output)
    return Case(path.name, (label,), path, None, position, str(output))


def as_float32(data: np.ndarray | Tensor, n_channels: int | None = None) -> Tensor:
    """Preprocessed data (C, D, H, W) as networks take it, of any real dtype, byte order and strides.

    InputError for what is no such array, is empty, or has not n_channels; None: any number.
    """
    if not isinstance(data, (np.ndarray, Tensor)):
        raise InputError(f"The preprocessed data is a {type(data).__name__}; give a tensor or an array (C, D, H, W).")
    is_real = not data.is_complex() if isinstance(data, Tensor) else data.dtype.kind in "biuf"
    if not is_real or data.ndim != 4 or 0 in data.shape or n_channels not in (None, len(data)):
        wanted = "(C, D, H, W)" if n_channels is None else f"({n_channels}, D, H, W)"
        raise InputError(f"The preprocessed data has shape {tuple(data.shape)} and type {data.dtype}; the network takes {wanted} of real numbers, no axis empty.")
    return data.detach().to("cpu", torch.float32) if isinstance(data, Tensor) else torch.from_numpy(np.ascontiguousarray(data, np.float32))


def _refuse_incomplete(item: Any, position: int) -> None:
    if missing := [key for key in ("data", "data_properties", "ofile") if not isinstance(item, Mapping) or key not in item]:
        raise InputError(f"Item {position + 1} of the data iterator lacks {', '.join(missing)}; each is a dict of data, data_properties and ofile, where None returns the result.")


def _refuse_lengths(lists: dict[str, Sequence]) -> None:
    if len({len(entries) for entries in lists.values()}) > 1:
        raise InputError(f"The lists differ in length: {', '.join(f'{len(entries)} {what}' for what, entries in lists.items())}.")


def read_ahead(function: Callable, jobs: Sequence[tuple], workers: int) -> Iterator[dict]:
    """function(*job) of each, in order; `workers` threads, and as many results at the most, are ahead."""
    refuse_thread_counts(workers)
    if workers == 0:
        for job in jobs:
            yield function(*job)
        return
    waiting = iter(jobs)
    with ThreadPoolExecutor(workers, "read") as pool:
        try:
            ahead = deque(pool.submit(function, *job) for job in islice(waiting, workers))
            while ahead:
                result = ahead.popleft().result()
                ahead.extend(pool.submit(function, *job) for job in islice(waiting, 1))
                yield result
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
