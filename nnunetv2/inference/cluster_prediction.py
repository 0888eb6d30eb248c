"""A prediction in parts, which the workers of a cluster do (see utilities/cluster.py)."""

from pathlib import Path
from typing import Any

from nnunetv2.inference.cases import list_cases
from nnunetv2.inference.predict_from_raw_data import refuse_before_loading, run_prediction
from nnunetv2.utilities import cluster
from nnunetv2.utilities.file_shapes import DatasetJson
from nnunetv2.utilities.files import load_json
from nnunetv2.utilities.parallel import in_processes

PARTS_PER_WORKER = 4  # so that a slow worker keeps the others waiting for a part of its share alone, and a dead one loses no more

PATHS = ("input_folder", "output_folder", "model_folder", "roi_model", "folder_with_segs_from_prev_stage", "dicom_images")


def predict_on_workers(settings: dict[str, Any]) -> int:
    """`run_prediction(**settings)` in parts, within `workers_of`; all paths must mean the same on every worker. Returns 0.

    Raises CasesFailed naming each part that has failed cases, with what it says of them; everything else is done.
    """
    settings = settings | {name: Path(settings[name]).absolute() for name in PATHS if settings[name] is not None}
    dataset_json = settings["model_folder"] / "dataset.json"
    dicom = refuse_before_loading(settings["input_folder"], settings["output_folder"], dataset_json, settings["dicom_seg"], settings["dicom_images"])
    source = settings["input_folder"] if dicom is None else dicom.images
    ending = load_json(dataset_json, DatasetJson)["file_ending"]
    n = min(len(list_cases(source, settings["output_folder"], ending)), PARTS_PER_WORKER * cluster.n_workers())
    jobs = {f"part {i} of {n}": (settings | {"num_parts": n, "part_id": i, "allow_tqdm": False, "raise_failures": True},) for i in range(n)}
    in_processes(_predict_part, jobs, None, "Predicting")
    return 0


def _predict_part(settings: dict[str, Any]) -> None:
    run_prediction(**settings)
