"""Cases preprocessed ahead of whoever predicts them, with nnU-Net's signatures.

Every item is {"data": tensor (C, z, y, x) float32, "data_properties": dict, "ofile": output without ending, or None}. A case with a
segmentation of the previous stage has that stage's foreground labels one-hot as its last channels. Items come in the order of the
cases. nnU-Net's processes are threads here: the work is done in libraries that release Python's lock, and nothing has to be pickled.
"""

import os
import queue
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from batchgenerators.dataloading.data_loader import DataLoader

from nnunetv2.compatibility.training import convert_labelmap_to_one_hot
from nnunetv2.inference.array_prediction import read_ahead
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.errors import CasesFailed, in_one_message
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

Files = Sequence[str]  # of one case, a file a channel
Item = dict[str, Any]
Job = tuple[tuple, str | None]  # what `run_case` or `run_case_npy` takes first, and the output


@dataclass(frozen=True)
class _Preparation:
    """From one case to its item. `run`: run_case or run_case_npy of a preprocessor."""

    run: Callable[..., tuple[np.ndarray, np.ndarray, dict]]
    plans_manager: PlansManager
    configuration_manager: ConfigurationManager
    dataset_json: dict

    def __call__(self, case: tuple, output: str | None) -> Item:
        """`case[1]` is the previous stage's segmentation, a file or an array, or None."""
        data, seg, properties = self.run(*case, self.plans_manager, self.configuration_manager, self.dataset_json)
        if case[1] is not None:
            labels = self.plans_manager.get_label_manager(self.dataset_json).foreground_labels
            data = np.concatenate([data, convert_labelmap_to_one_hot(seg[0], labels, data.dtype)])
        return {"data": torch.from_numpy(np.ascontiguousarray(data, np.float32)), "data_properties": properties, "ofile": output}


def preprocessing_iterator_fromfiles(list_of_lists: Sequence[Files], list_of_segs_from_prev_stage_files: Sequence[str | None] | None,
                                     output_filenames_truncated: Sequence[str | None] | None, plans_manager: PlansManager, dataset_json: dict,
                                     configuration_manager: ConfigurationManager, num_processes: int, pin_memory: bool = False,
                                     verbose: bool = False) -> Iterator[Item]:
    """The items of cases on disk, `num_processes` of them in work at a time.

    ValueError when lists differ in length or `num_processes` is below 1; CasesFailed, a RuntimeError, names the case that failed.
    """
    prepare = _Preparation(configuration_manager.preprocessor_class(verbose=verbose).run_case, plans_manager, configuration_manager, dataset_json)
    return _ahead(prepare, _jobs(list_of_lists, list_of_segs_from_prev_stage_files, output_filenames_truncated), num_processes, pin_memory)


def preprocessing_iterator_fromnpy(list_of_images: Sequence[np.ndarray], list_of_segs_from_prev_stage: Sequence[np.ndarray | None] | None,
                                   list_of_image_properties: Sequence[dict], truncated_ofnames: Sequence[str | None] | None,
                                   plans_manager: PlansManager, dataset_json: dict, configuration_manager: ConfigurationManager,
                                   num_processes: int, pin_memory: bool = False, verbose: bool = False) -> Iterator[Item]:
    """As `preprocessing_iterator_fromfiles`, of images (C, Z, Y, X), masks (1, Z, Y, X) and their properties."""
    prepare = _Preparation(configuration_manager.preprocessor_class(verbose=verbose).run_case_npy, plans_manager, configuration_manager, dataset_json)
    jobs = _jobs(list_of_images, list_of_segs_from_prev_stage, truncated_ofnames, list_of_image_properties)
    return _ahead(prepare, jobs, num_processes, pin_memory)


def preprocess_fromfiles_save_to_queue(list_of_lists: Sequence[Files], list_of_segs_from_prev_stage_files: Sequence[str | None] | None,
                                       output_filenames_truncated: Sequence[str | None] | None, plans_manager: PlansManager, dataset_json: dict,
                                       configuration_manager: ConfigurationManager, target_queue: Any, done_event: Any, abort_event: Any,
                                       verbose: bool = False) -> None:
    """Put the items into `target_queue` one after the other, then set `done_event`. It stops when `abort_event` is set, and sets it on an error."""
    prepare = _Preparation(configuration_manager.preprocessor_class(verbose=verbose).run_case, plans_manager, configuration_manager, dataset_json)
    _into_queue(prepare, _jobs(list_of_lists, list_of_segs_from_prev_stage_files, output_filenames_truncated), target_queue, done_event, abort_event)


def preprocess_fromnpy_save_to_queue(list_of_images: Sequence[np.ndarray], list_of_segs_from_prev_stage: Sequence[np.ndarray | None] | None,
                                     list_of_image_properties: Sequence[dict], truncated_ofnames: Sequence[str | None] | None,
                                     plans_manager: PlansManager, dataset_json: dict, configuration_manager: ConfigurationManager,
                                     target_queue: Any, done_event: Any, abort_event: Any, verbose: bool = False) -> None:
    """As `preprocess_fromfiles_save_to_queue`, of arrays."""
    prepare = _Preparation(configuration_manager.preprocessor_class(verbose=verbose).run_case_npy, plans_manager, configuration_manager, dataset_json)
    jobs = _jobs(list_of_images, list_of_segs_from_prev_stage, truncated_ofnames, list_of_image_properties)
    _into_queue(prepare, jobs, target_queue, done_event, abort_event)


class _Adapter(DataLoader):
    """One item a batch, for batchgenerators' augmenters, which choose cases by `get_indices`."""

    def __init__(self, preprocessor: DefaultPreprocessor, run: Callable, jobs: list[Job], plans_manager: PlansManager, dataset_json: dict,
                 configuration_manager: ConfigurationManager, num_threads: int):
        super().__init__(jobs, 1, num_threads, seed_for_shuffle=1, return_incomplete=True, shuffle=False, infinite=False)
        self.indices = list(range(len(jobs)))
        self.preprocessor, self.plans_manager, self.configuration_manager = preprocessor, plans_manager, configuration_manager
        self.dataset_json, self.label_manager = dataset_json, plans_manager.get_label_manager(dataset_json)
        self._prepare = _Preparation(run, plans_manager, configuration_manager, dataset_json)

    def generate_train_batch(self) -> Item:
        return self._prepare(*self._data[self.get_indices()[0]])


class PreprocessAdapter(_Adapter):
    """Cases on disk, for batchgenerators' augmenters."""

    def __init__(self, list_of_lists: Sequence[Files], list_of_segs_from_prev_stage_files: Sequence[str | None] | None, preprocessor: DefaultPreprocessor,
                 output_filenames_truncated: Sequence[str | None] | None, plans_manager: PlansManager, dataset_json: dict,
                 configuration_manager: ConfigurationManager, num_threads_in_multithreaded: int = 1):
        super().__init__(preprocessor, preprocessor.run_case, _jobs(list_of_lists, list_of_segs_from_prev_stage_files, output_filenames_truncated),
                         plans_manager, dataset_json, configuration_manager, num_threads_in_multithreaded)


class PreprocessAdapterFromNpy(_Adapter):
    """Arrays, for batchgenerators' augmenters."""

    def __init__(self, list_of_images: Sequence[np.ndarray], list_of_segs_from_prev_stage: Sequence[np.ndarray | None] | None,
                 list_of_image_properties: Sequence[dict], truncated_ofnames: Sequence[str | None] | None, plans_manager: PlansManager,
                 dataset_json: dict, configuration_manager: ConfigurationManager, num_threads_in_multithreaded: int = 1, verbose: bool = False):
        preprocessor = configuration_manager.preprocessor_class(verbose=verbose)
        jobs = _jobs(list_of_images, list_of_segs_from_prev_stage, truncated_ofnames, list_of_image_properties)
        super().__init__(preprocessor, preprocessor.run_case_npy, jobs, plans_manager, dataset_json, configuration_manager, num_threads_in_multithreaded)
        self.truncated_ofnames = truncated_ofnames


def _jobs(images: Sequence, previous: Sequence | None, outputs: Sequence[str | None] | None, *further: Sequence) -> list[Job]:
    """One job a case; ValueError when a list is longer or shorter than `images`."""
    previous, outputs = ([None] * len(images) if given is None else given for given in (previous, outputs))
    return [(tuple(case), output) for output, *case in zip(outputs, images, previous, *further, strict=True)]


def _ahead(prepare: _Preparation, jobs: list[Job], num_workers: int, pin_memory: bool) -> Iterator[Item]:
    """`num_workers` threads, and as many items at the most, are ahead."""
    if num_workers < 1:
        raise ValueError(f"num_processes is {num_workers}; it must be at least 1.")

    def prepare_named(number: int, job: Job) -> Item:
        try:
            item = prepare(*job)
        except Exception as error:
            raise CasesFailed(f"{_name(number, job)}: {in_one_message(error) or type(error).__name__}") from error
        if pin_memory:
            item["data"] = item["data"].pin_memory()
        return item

    return read_ahead(prepare_named, list(enumerate(jobs)), num_workers)


def _name(number: int, job: Job) -> str:
    (image, *_), output = job
    if output is not None:
        return os.fspath(output)
    return f"case {number}" if isinstance(image, np.ndarray) else ", ".join(map(str, image))


def _into_queue(prepare: _Preparation, jobs: list[Job], target: Any, done: Any, abort: Any) -> None:
    try:
        for job in jobs:
            item = prepare(*job)
            while not abort.is_set():
                try:
                    target.put(item, timeout=0.01)
                    break
                except queue.Full:  # look at `abort` again: whoever reads may be gone
                    continue
            else:
                return
        done.set()
    except Exception:
        abort.set()
        raise
