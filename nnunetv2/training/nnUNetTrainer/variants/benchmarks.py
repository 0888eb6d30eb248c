"""Trainers that measure how long an epoch takes, under upstream's names. They save no weights."""

import platform
from itertools import repeat
from pathlib import Path

import torch

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.file_shapes import AnyObject
from nnunetv2.utilities.files import is_there, load_json, save_json
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels


class nnUNetTrainerBenchmark_5epochs(nnUNetTrainer):
    """Five epochs of fold 0; the fastest goes into benchmark_result.json, an entry per machine."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.fold != 0:
            raise InputError(f"A benchmark has one result per dataset: train fold 0, not {self.fold}.")
        self.disable_checkpointing = True
        self.num_epochs = 5

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        pass

    def on_train_end(self) -> None:
        super().on_train_end()
        if self.local_rank != 0:
            return
        durations = [end - start for start, end in zip(self.logger.get_value("epoch_start_timestamps", None), self.logger.get_value("epoch_end_timestamps", None))]
        on_cuda = self.device.type == "cuda"
        entry = {"torch_version": torch.__version__, "cudnn_version": torch.backends.cudnn.version() if on_cuda else None,
                 "gpu_name": torch.cuda.get_device_name() if on_cuda else self.device.type, "fastest_epoch": min(durations),
                 "num_gpus": self.world_size, "hostname": platform.node()}
        file = Path(self.output_folder) / "benchmark_result.json"
        key = f"{entry['hostname']}__{entry['cudnn_version']}__{entry['torch_version']}__{entry['gpu_name']}__num_gpus_{entry['num_gpus']}".replace(" ", "")
        save_json((load_json(file, AnyObject) if is_there(file) else {}) | {key: entry}, file)


class nnUNetTrainerBenchmark_5epochs_noDataLoading(nnUNetTrainerBenchmark_5epochs):
    """One batch of noise again and again: the network's own speed."""

    def get_dataloaders(self):
        self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        patch = self.configuration_manager.patch_size
        channels = determine_num_input_channels(self.plans_manager, self.configuration_manager, self.dataset_json)
        shape = (self.batch_size, 1 if not self.label_manager.has_regions else self.label_manager.num_segmentation_heads)
        scales = self._get_deep_supervision_scales() or [[1.0] * len(patch)]
        highest = 1 if self.label_manager.has_regions else max(self.label_manager.all_labels)
        targets = [torch.randint(0, highest + 1, (*shape, *(round(n * s) for n, s in zip(patch, scale))), device=self.device) for scale in scales]
        batch = {"data": torch.rand((self.batch_size, channels, *patch), device=self.device), "target": targets if self.enable_deep_supervision else targets[0],
                 "class_target": torch.zeros(self.batch_size, dtype=torch.int64), "has_lesion": torch.ones(self.batch_size, dtype=torch.bool)}
        return repeat(batch), repeat(batch)
