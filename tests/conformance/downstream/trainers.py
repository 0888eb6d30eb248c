"""Twelve trainers as people write them against nnU-Net 2.8.1, each with one thing of its own; run here and upstream, unchanged.

Every name that is imported or called is public there. The reference environment imports this file as a plain module.
"""

import os

import numpy as np
import torch
from torch import nn

from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class Short(nnUNetTrainer):
    """Two epochs of two steps."""

    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cpu")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 2, 2, 1
        self.save_every = 50  # upstream's; by itself this repository keeps short trainings more often


class OwnSplit(Short):
    """Trains on what the splits file validates on."""

    def do_split(self):
        return ["case_001"], ["case_000"]


class OwnDatasets(Short):
    """Leaves the first training case out."""

    def get_tr_and_val_datasets(self):
        train, val = super().get_tr_and_val_datasets()
        train.identifiers = train.identifiers[1:]
        return train, val


class NoFlipLittleTurn(Short):
    """Never mirrors, and turns by 5 degrees at most."""

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):
        _, dummy_2d, initial, _ = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self.inference_allowed_mirroring_axes = None
        return (-5 / 180 * np.pi, 5 / 180 * np.pi), dummy_2d, initial, None


class FewerTransforms(Short):
    """Leaves nnU-Net's third and fourth transform out."""

    @staticmethod
    def get_training_transforms(patch_size, rotation_for_DA, deep_supervision_scales, mirror_axes, do_dummy_2d_data_aug, **more):
        pipeline = nnUNetTrainer.get_training_transforms(patch_size, rotation_for_DA, deep_supervision_scales, mirror_axes, do_dummy_2d_data_aug, **more)
        del pipeline.transforms[2:4]
        return pipeline


class MoreDice(Short):
    """Dice twice as heavy as cross-entropy, and all resolutions alike."""

    def _build_loss(self):
        loss = DC_and_CE_loss({"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": self.is_ddp}, {}, weight_ce=1, weight_dice=2,
                              ignore_label=self.label_manager.ignore_label, dice_class=MemoryEfficientSoftDiceLoss)
        n = len(self._get_deep_supervision_scales())
        return DeepSupervisionWrapper(loss, [1 / n] * n)


class AdamWithCosine(Short):
    """Another optimiser, another schedule, from PyTorch."""

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=self.initial_lr / 10, weight_decay=self.weight_decay)
        return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.num_epochs)


class OwnNetwork(Short):
    """A plain U-Net of three stages without deep supervision."""

    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cpu")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.enable_deep_supervision = False

    @staticmethod
    def build_network_architecture(architecture_class_name, arch_init_kwargs, arch_init_kwargs_req_import, num_input_channels, num_output_channels,
                                   enable_deep_supervision=True):
        return PlainConvUNet(num_input_channels, 3, (4, 8, 8), nn.Conv3d, 3, (1, 2, 2), (1, 1, 1), num_output_channels, (1, 1), conv_bias=True,
                             norm_op=nn.InstanceNorm3d, norm_op_kwargs={"affine": True}, nonlin=nn.LeakyReLU, deep_supervision=enable_deep_supervision)


class OwnSteps(Short):
    """Scales every batch before the step, and counts voxels of foreground in validation."""

    def train_step(self, batch):
        batch["data"] = batch["data"] * 0.5
        return super().train_step(batch)

    def validation_step(self, batch):
        target = batch["target"][0] if isinstance(batch["target"], list) else batch["target"]
        return {**super().validation_step(batch), "foreground": int((target > 0).sum())}

    def on_validation_epoch_end(self, val_outputs):
        self.seen = [output.pop("foreground") for output in val_outputs]
        super().on_validation_epoch_end(val_outputs)


class OwnEpochEnd(Short):
    """Keeps a checkpoint of its own each epoch and reads what the log holds."""

    def on_epoch_end(self):
        epoch = self.current_epoch
        super().on_epoch_end()
        self.save_checkpoint(os.path.join(self.output_folder, f"checkpoint_after_{epoch}.pth"))
        self.print_to_log_file("kept", epoch, also_print_to_console=False)
        self.read = [float(self.logger.get_value("lrs", step=epoch)), float(self.logger.get_value("mean_fg_dice", step=-1))]


class OwnLengthAndRate(Short):
    """Attributes alone: length, rate, decay, oversampling."""

    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cpu")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.initial_lr, self.weight_decay, self.oversample_foreground_percent = 3, 3e-3, 1e-4, 0.9


class FixedBatches(Short):
    """Loaders of its own: the same batches on every machine, so that losses and weights can be compared."""

    def get_dataloaders(self):
        shape = (self.configuration_manager.batch_size, 1, *self.configuration_manager.patch_size)
        scales = self._get_deep_supervision_scales()

        def batches(seed):
            generator = np.random.default_rng(seed)
            while True:
                data = generator.normal(size=shape).astype(np.float32)
                labels = np.digitize(data + np.roll(data, 1, -1), [0.5, 1.5]).astype(np.int16)
                targets = [labels[(..., *(slice(None, None, round(1 / s)) for s in scale))].copy() for scale in scales]
                yield {"data": torch.from_numpy(data), "target": [torch.from_numpy(t) for t in targets]}

        return batches(0), batches(1)


class NoDeepSupervision(FixedBatches):
    """One resolution, by the attribute alone."""

    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cpu")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.enable_deep_supervision = False

    def get_dataloaders(self):
        self.enable_deep_supervision = True  # the scales, for the generator below
        several = super().get_dataloaders()
        self.enable_deep_supervision = False
        return tuple(({**batch, "target": batch["target"][0]} for batch in loader) for loader in several)


TRAINERS = ("OwnSplit", "OwnDatasets", "NoFlipLittleTurn", "FewerTransforms", "MoreDice", "AdamWithCosine", "OwnNetwork", "OwnSteps", "OwnEpochEnd",
            "OwnLengthAndRate", "FixedBatches", "NoDeepSupervision")
FEW = ("OwnSplit", "FewerTransforms", "FixedBatches")  # for a reduced run
