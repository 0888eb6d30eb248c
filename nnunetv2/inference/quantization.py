"""The network in int8, in OpenVINO on CPUs that have VNNI and no AMX: post-training quantisation with NNCF.

    nnUNetv2_quantize -d 777 -c 3d_fullres -f 0 -p nnUNetResEncUNetMPlans

Weights get 8 bits a channel, inputs of convolutions 8 bits a tensor, in ranges that a few training cases show (Jacob et al.
2018). Instance normalisation and the non-linearity before a convolution keep these ranges much the same from case to case.
What costs little and loses much stays in fp32: the first convolution, whose input is the CT itself, projections and the
segmentation's last layer (kernel 1), transposed convolutions, all additions, and the class head.
Validation cases are never read.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino
import torch
from torch import Tensor
from tqdm import tqdm

from nnunetv2 import paths
from nnunetv2.evaluation.evaluate_predictions import overlap_metrics
from nnunetv2.inference.coarse_roi import foreground_box
from nnunetv2.inference.engines import Engine
from nnunetv2.inference.engines.guard import GuardedEngine
from nnunetv2.inference.engines.openvino_engine import Int8Engine, OpenVINOEngine, keep_model, load_or_convert, without_telemetry
from nnunetv2.inference.model_loading import TrainedModel, find_model
from nnunetv2.inference.network_geometry import network_geometry
from nnunetv2.inference.sliding_window_prediction import pad_centred
from nnunetv2.preprocessing.case_store import load_case
from nnunetv2.utilities.checkpoint import load_checkpoint
from nnunetv2.utilities.files import save_json
from nnunetv2.utilities.splits import trained_split
from nnunetv2.utilities.label_handling.label_handling import LabelManager

CALIBRATION_CASES = 8
CHECK_CASES = 4  # other training cases, on which int8 is compared with fp32
LOWEST_AGREEMENT = 0.97  # mean DSC of the foreground, one pass; below it the quantised model is not kept
REPORT_FILE = "quantization.json"  # beside the checkpoint


def quantise(model: openvino.Model, inputs: Sequence[np.ndarray]) -> openvino.Model:
    """A copy of `model` whose larger convolutions run in int8; `inputs` (B, C, *spatial) float32 show the ranges."""
    with without_telemetry():
        import nncf  # takes seconds, and nothing else needs it
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    in_fp32 = {node.get_friendly_name() for node in model.get_ops() if node.get_type_name() == "Convolution" and _is_delicate(node)}
    other_types = {node.get_type_name() for node in model.get_ops()} - {"Convolution", "Constant", "Convert", "Parameter", "Result"}
    with without_telemetry():
        return nncf.quantize(
            model.clone(), nncf.Dataset(list(inputs)), subset_size=len(inputs), preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=sorted(in_fp32), types=sorted(other_types), validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                disable_bias_correction=True,  # the norm behind each convolution removes a bias anyway
                activations_range_estimator_params=RangeEstimatorParametersSet.HISTOGRAM))


def _is_delicate(convolution: openvino.Node) -> bool:
    """The first layer, and kernels of one voxel."""
    image, weight = (convolution.input_value(i) for i in range(2))
    return image.get_node().get_type_name() == "Parameter" or all(int(size) == 1 for size in weight.get_partial_shape().to_shape()[2:])


def foreground_window(data: np.ndarray, seg: np.ndarray, patch_size: Sequence[int]) -> Tensor:
    """(1, C, *patch_size) of a case (C, D, H, W), around the middle of seg > 0 (1, D, H, W); the case's own middle without any.

    A 2D patch is the slice in that middle. What is smaller than the patch is zero-padded.
    """
    found = foreground_box(seg[0] > 0)
    middle = [n // 2 for n in seg.shape[1:]] if found is None else [(side.start + side.stop - 1) // 2 for side in found]
    window: list[slice | int] = [slice(None)]
    flat = data.ndim - 1 - len(patch_size)
    window += middle[:flat]
    for m, size, n in zip(middle[flat:], patch_size, data.shape[1 + flat:]):
        start = int(np.clip(m - size // 2, 0, max(0, n - size)))
        window.append(slice(start, start + size))
    return pad_centred(torch.from_numpy(np.ascontiguousarray(data[tuple(window)], dtype=np.float32)), tuple(patch_size))[0][None]


def agreement(int8: Engine, fp32: Engine, windows: Sequence[Tensor], label_manager: LabelManager) -> dict[str, float]:
    """How much int8 changes: mean DSC of the foreground (1 where both find none), largest difference of a class probability."""
    foreground = tuple(label_manager.foreground_labels)
    scores, differences = [], []
    for window in windows:
        (seg, class_logits), (reference, reference_class) = int8(window), fp32(window)
        found, expected = (np.asarray(label_manager.convert_logits_to_segmentation(logits[0])) for logits in (seg, reference))
        scores.append(np.nan_to_num(overlap_metrics(expected, found, [foreground])[foreground]["Dice"], nan=1.0))
        if class_logits is not None:
            differences.append((class_logits.softmax(1) - reference_class.softmax(1)).abs().max().item())
    return {"foreground_dsc": float(np.mean(scores))} | ({"class_probability_difference": max(differences)} if differences else {})


def quantise_model(model_folder: str | os.PathLike, fold: int | str, checkpoint: str = "checkpoint_final.pth",
                   n_cases: int = CALIBRATION_CASES) -> dict:
    """Quantise one fold of a trained model; the int8 model lies beside its checkpoint, the report in `quantization.json`.

    Raises ValueError, and keeps nothing, if int8 changes more than LOWEST_AGREEMENT allows.
    """
    model = find_model(Path(model_folder), (fold,), checkpoint)
    path = model.checkpoints[0]
    if model.configuration_manager.previous_stage_name is not None:
        raise ValueError(f"{path} belongs to a cascade, whose input needs the previous stage's masks; quantise that stage.")
    geometry = network_geometry(model.configuration_manager, None)
    windows = _training_windows(model, fold, geometry.patch_size, n_cases + CHECK_CASES)
    shown = windows[:max(1, len(windows) - CHECK_CASES)]
    to_check = windows[len(shown):]
    if not to_check:
        raise ValueError(f"{path}: quantising needs two training cases, one of them to check it on; fold {fold} has {len(windows)}.")

    fp32_path, int8_path = (model.converted_path(path, kind) for kind in ("openvino", "int8"))
    network = load_or_convert(lambda: model.build_network(path), model.input_channels, geometry.divisor, fp32_path)
    fp32 = GuardedEngine(OpenVINOEngine(network, half=False), model=str(path))
    fp32(shown[0])  # weights that make NaN are refused by name, before their ranges are looked for
    quantised = quantise(network, [window.numpy() for window in shown])
    scores = agreement(Int8Engine(quantised, lambda: fp32), fp32, to_check, model.plans_manager.get_label_manager(model.dataset_json))
    report = {"checkpoint": checkpoint, "calibration_cases": len(shown), "checked_on": len(to_check), **scores}
    if scores["foreground_dsc"] < LOWEST_AGREEMENT:
        raise ValueError(f"{path}: in int8 the foreground has a DSC of {scores['foreground_dsc']:.3f} to that of fp32 on {len(to_check)} training "
                         f"cases, less than {LOWEST_AGREEMENT}; nothing is kept. Calibrate on more cases (-n), or stay with fp32.")
    keep_model(quantised, int8_path)
    save_json(report, path.with_name(REPORT_FILE))
    print(f"{path}: quantised on {len(shown)} training cases; on {len(to_check)} others one pass has a foreground DSC of "
          f"{scores['foreground_dsc']:.4f} to that in fp32. Used by --precision int8, and by --mode half and fast on CPUs where neither bf16 "
          "nor Winograd convolutions in int16 are fast.")
    return report


def _training_windows(model: TrainedModel, fold: int | str, patch_size: Sequence[int], n: int) -> list[Tensor]:
    """One window each of `n` training cases, drawn with a fixed seed; all if there are fewer."""
    dataset_folder = paths.nnUNet_preprocessed / model.plans_manager.dataset_name
    checkpoint = model.checkpoints[0]
    cases, _ = trained_split(load_checkpoint(checkpoint, lazy=True).get("identity"), dataset_folder, fold, checkpoint)
    folder = dataset_folder / model.configuration_manager.data_identifier
    order = np.random.default_rng(0).permutation(len(cases))[:n]
    windows = []
    for case in tqdm([cases[i] for i in order], desc="calibration cases"):
        data, seg = load_case(folder, case)[:2]
        windows.append(foreground_window(data[:], seg[:], patch_size))
    return windows
