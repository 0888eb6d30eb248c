"""Training and prediction with nnU-Net's signatures."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist

from nnunetv2.inference.case_prediction import CasePrediction
from nnunetv2.inference.export_prediction import convert_prediction_to_segmentation, write_prediction
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class, nnUNetBaseDataset
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.registry import find_trainer
from nnunetv2.training.run_training import TrainingJob, fold_from_text, free_port, run_training
from nnunetv2.utilities.checkpoint import load_pretrained_weights as _load_pretrained_weights
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.file_shapes import DatasetJson
from nnunetv2.utilities.files import load_json
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager


def find_free_network_port() -> int:
    return free_port()


def get_trainer_from_args(dataset_name_or_id: int | str, configuration: str, fold: int | str, trainer_name: str = "nnUNetTrainer",
                          plans_identifier: str = "nnUNetPlans", continue_training: bool = False,
                          device: torch.device = torch.device("cuda")) -> nnUNetTrainer:
    """A trainer as nnUNetv2_train makes it, not initialised."""
    return TrainingJob(maybe_convert_to_dataset_name(dataset_name_or_id), configuration, fold_from_text(fold), trainer_name,
                       plans_identifier).make_trainer(device)


def maybe_load_checkpoint(nnunet_trainer: nnUNetTrainer, continue_training: bool, validation_only: bool, pretrained_weights_file: str | None = None) -> None:
    """Load what training starts from, goes on with or validates; nothing for a new training without pretrained weights."""
    if continue_training and pretrained_weights_file is not None:
        raise ValueError("A continued training has its weights; leave pretrained_weights_file away.")
    folder = Path(nnunet_trainer.output_folder)
    if validation_only:
        nnunet_trainer.to_validate = True
        nnunet_trainer.load_checkpoint(str(folder / "checkpoint_final.pth"))
    elif continue_training:
        checkpoint = TrainingJob._checkpoint_to_continue(nnunet_trainer)
        if checkpoint is None:
            print(f"{folder} has no checkpoint to continue from; the training starts.")
        else:
            nnunet_trainer.load_checkpoint(str(checkpoint))
    elif pretrained_weights_file is not None:
        if not nnunet_trainer.was_initialized:
            nnunet_trainer.initialize()
        _load_pretrained_weights(nnunet_trainer.module, pretrained_weights_file)


def load_pretrained_weights(network: nn.Module, fname: str | os.PathLike, verbose: bool = False) -> None:
    """Take over all weights of a checkpoint but the segmentation layers'."""
    _load_pretrained_weights(getattr(network, "module", network), fname)


def setup_ddp(rank: int, world_size: int) -> None:
    """Join the processes of a training on several GPUs; MASTER_ADDR and MASTER_PORT tell where."""
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", rank=rank, world_size=world_size)


def cleanup_ddp() -> None:
    dist.destroy_process_group()


def run_ddp(rank: int, dataset_name_or_id: int | str, configuration: str, fold: int | str, tr: str, p: str, disable_checkpointing: bool, c: bool,
            val: bool, pretrained_weights: str | None, npz: bool, val_with_best: bool, world_size: int) -> None:
    """Be process `rank` of a training by `world_size` processes, as torch.multiprocessing.spawn starts them, a GPU each.

    MASTER_ADDR and MASTER_PORT tell where they meet. The first one validates, alone. ValueError for options that do not go together.
    """
    of_torchrun = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size}
    os.environ.update({name: str(value) for name, value in of_torchrun.items()}, TORCHELASTIC_RUN_ID=os.environ.get("TORCHELASTIC_RUN_ID", "run_ddp"))
    run_training(dataset_name_or_id, configuration, fold, tr, p, pretrained_weights, 1, npz, c, val, disable_checkpointing, val_with_best,
                 torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def recursive_find_trainer_class_by_name(trainer_name: str) -> type[nnUNetTrainer]:
    """The trainer below this package or in a folder of nnUNet_extTrainer."""
    return find_trainer(trainer_name)


def unpack_dataset(folder: str, unpack_segmentation: bool = True, overwrite_existing: bool = False, num_processes: int = 1, verify: bool = False) -> None:
    """Make cases of older versions (.npz) quick to read; nothing to do for others."""
    infer_dataset_class(folder).unpack_dataset(folder, overwrite_existing, num_processes, verify)


def get_case_identifiers(folder: str) -> list[str]:
    """Names of the preprocessed cases in `folder`, of any kind."""
    return infer_dataset_class(folder).get_identifiers(folder)


def get_patch_size(final_patch_size: Sequence[int], rot_x: Any, rot_y: Any, rot_z: Any, scale_range: Sequence[float]) -> np.ndarray:
    """Size to read from disk, so that a patch turned by up to these angles (radians, at most 90 degrees; a number or a range) has no empty corners."""
    angles = [min(np.pi / 2, float(np.max(np.abs(angle)))) for angle in (rot_x, rot_y, rot_z)]
    corner = np.array(final_patch_size, float)
    reach = corner.copy()
    c, s = np.cos(angles), np.sin(angles)
    if len(corner) == 3:
        for axis in range(3):
            a, b = (i for i in range(3) if i != axis)
            turned = corner.copy()
            sense = -1 if axis == 1 else 1
            turned[a], turned[b] = c[axis] * corner[a] + sense * s[axis] * corner[b], c[axis] * corner[b] - sense * s[axis] * corner[a]
            reach = np.maximum(reach, np.abs(turned))
    else:
        reach = np.maximum(reach, np.abs([c[0] * corner[0] + s[0] * corner[1], c[0] * corner[1] - s[0] * corner[0]]))
    return (reach / min(scale_range)).astype(int)


# ---- evaluation ------------------------------------------------------------------------------------------------------


def labels_to_list_of_regions(labels: Sequence[int]) -> list[tuple[int]]:
    """[1, 2] -> [(1,), (2,)]."""
    return [(label,) for label in labels]


def region_or_label_to_mask(segmentation: np.ndarray, region_or_label: int | Sequence[int]) -> np.ndarray:
    """Where `segmentation` is the label, or any of the region's."""
    return np.isin(segmentation, region_or_label)


def compute_tp_fp_fn_tn(mask_ref: np.ndarray, mask_pred: np.ndarray, ignore_mask: np.ndarray | None = None) -> tuple[int, int, int, int]:
    """True positives, false positives, false negatives, true negatives of two bool masks, without the ignored voxels."""
    used = np.ones(mask_ref.shape, bool) if ignore_mask is None else ~ignore_mask
    return tuple(int(np.count_nonzero(a & b & used)) for a, b in ((mask_ref, mask_pred), (~mask_ref, mask_pred), (mask_ref, ~mask_pred), (~mask_ref, ~mask_pred)))


def get_labelmanager_class_from_plans(plans: dict) -> type[LabelManager]:
    """The class that plans name; LabelManager for plans that name none."""
    if plans.get("label_manager", LabelManager.__name__) != LabelManager.__name__:
        raise ValueError(f"The plans name the label manager {plans['label_manager']!r}; {LabelManager.__name__} is known.")
    return LabelManager


def convert_labelmap_to_one_hot(segmentation: np.ndarray | Tensor, all_labels: Sequence[int], output_dtype: Any = None) -> np.ndarray | Tensor:
    """(Z, Y, X) -> (labels, Z, Y, X), an array for an array and a tensor for a tensor, uint8 unless told otherwise."""
    if isinstance(segmentation, Tensor):
        return torch.stack([segmentation == int(label) for label in all_labels]).to(output_dtype or torch.uint8)
    return np.stack([segmentation == label for label in all_labels]).astype(output_dtype or np.uint8)


# ---- export ----------------------------------------------------------------------------------------------------------


def convert_predicted_logits_to_segmentation_with_correct_shape(
        predicted_logits: Tensor | np.ndarray, plans_manager: PlansManager, configuration_manager: ConfigurationManager, label_manager: LabelManager,
        properties_dict: dict, return_probabilities: bool = False, num_threads_torch: int | None = None) -> Any:
    """Logits (S, z, y, x) on the preprocessed grid -> mask (Z, Y, X) on the image's, with probabilities (mask, (S, Z, Y, X))."""
    logits = torch.as_tensor(predicted_logits)
    whole = CasePrediction(logits, tuple(slice(0, n) for n in logits.shape[1:]), tuple(logits.shape[1:]), None)
    mask, probabilities = convert_prediction_to_segmentation(whole, properties_dict, plans_manager, configuration_manager, label_manager, return_probabilities)
    return (mask, probabilities) if return_probabilities else mask


def export_prediction_from_logits(predicted_array_or_file: np.ndarray | Tensor, properties_dict: dict, configuration_manager: ConfigurationManager,
                                  plans_manager: PlansManager, dataset_json_dict_or_file: dict | str, output_file_truncated: str,
                                  save_probabilities: bool = False, num_threads_torch: int | None = None) -> None:
    """Logits on the preprocessed grid -> OUTPUT with the dataset's ending, and with `save_probabilities` OUTPUT.npz and OUTPUT.pkl."""
    dataset_json = dataset_json_dict_or_file if isinstance(dataset_json_dict_or_file, dict) else load_json(dataset_json_dict_or_file, DatasetJson)
    labels = plans_manager.get_label_manager(dataset_json)
    found = convert_predicted_logits_to_segmentation_with_correct_shape(predicted_array_or_file, plans_manager, configuration_manager, labels,
                                                                        properties_dict, save_probabilities)
    mask, probabilities = found if save_probabilities else (found, None)
    write_prediction(mask, probabilities, properties_dict, plans_manager, output_file_truncated, dataset_json["file_ending"])


def resample_and_save(predicted: Tensor | np.ndarray, target_shape: Sequence[int], output_file: str, plans_manager: PlansManager,
                      configuration_manager: ConfigurationManager, properties_dict: dict, dataset_json_dict_or_file: dict | str,
                      num_threads_torch: int | None = None, dataset_class: type[nnUNetBaseDataset] | None = None) -> None:
    """Logits -> the segmentation on the grid of a cascade's next stage, as its training reads it."""
    from nnunetv2.preprocessing.case_store import save_seg

    dataset_json = dataset_json_dict_or_file if isinstance(dataset_json_dict_or_file, dict) else load_json(dataset_json_dict_or_file, DatasetJson)
    labels, backward = plans_manager.get_label_manager(dataset_json), plans_manager.transpose_forward
    new_spacing = [properties_dict["spacing"][axis] for axis in backward]
    current = list(configuration_manager.spacing)
    current = current if len(current) == len(new_spacing) else [new_spacing[0], *current]
    if len(target_shape) < len(new_spacing):
        raise ValueError(f"target_shape is {tuple(target_shape)}; give one number an axis, {len(new_spacing)}.")
    ratio = [n / m for n, m in zip(torch.as_tensor(predicted).shape[1:], target_shape)]
    target = [mm * r for mm, r in zip(current, ratio)]
    logits = configuration_manager.resampling_fn_probabilities(predicted, tuple(map(int, target_shape)), current, target)
    file = Path(output_file)
    save_seg(np.asarray(labels.convert_logits_to_segmentation(np.asarray(logits))), file.parent, file.name.removesuffix(".npz").removesuffix(".b2nd"))
