"""Trainers with another network, batch or draw of patches, under upstream's names."""

from copy import deepcopy

from nnunetv2.training.dataloading.patch_location import is_forced_foreground
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.errors import InputError


class nnUNetTrainerNoDeepSupervision(nnUNetTrainer):
    """The loss sees the finest output alone."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.enable_deep_supervision = False


class nnUNetTrainerBN(nnUNetTrainer):
    """Batch normalisation instead of instance normalisation."""

    @staticmethod
    def build_network_architecture(plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision=True):
        changed = deepcopy(configuration_manager)
        kwargs = changed.network_arch_init_kwargs
        if "norm_op" not in kwargs:
            raise InputError(f"nnUNetTrainerBN: {changed.network_arch_class_name} has no norm_op in the plans that could be exchanged.")
        kwargs["norm_op"] = f"torch.nn.modules.batchnorm.BatchNorm{len(changed.patch_size)}d"
        kwargs["norm_op_kwargs"] = {"eps": 1e-5, "affine": True}
        return nnUNetTrainer.build_network_architecture(plans_manager, changed, num_input_channels, num_output_channels, enable_deep_supervision)


class nnUNet_Trainer_BS8(nnUNetTrainer):
    """Batches of 8."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.configuration_manager.configuration["batch_size"] = 8


class nnUNetTrainer_probabilisticOversampling(nnUNetTrainer):
    """Each patch shows foreground with the chance that the default makes of its share: half of them in a batch of two."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        n = self.configuration_manager.batch_size
        self.probabilistic_oversampling = True
        self.oversample_foreground_percent = sum(is_forced_foreground(i, n, self.oversample_foreground_percent) for i in range(n)) / n


class nnUNetTrainer_probabilisticOversampling_033(nnUNetTrainer_probabilisticOversampling):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.oversample_foreground_percent = 0.33


class nnUNetTrainer_probabilisticOversampling_010(nnUNetTrainer_probabilisticOversampling):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.oversample_foreground_percent = 0.1
