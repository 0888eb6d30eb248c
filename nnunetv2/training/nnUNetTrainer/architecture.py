"""The network of a trainer, built by the trainer's own method, in training and at prediction alike."""

import inspect
import warnings

from torch import nn

from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager


def build_network(trainer, plans_manager: PlansManager, configuration_manager: ConfigurationManager, num_input_channels: int,
                  num_output_channels: int, enable_deep_supervision: bool) -> nn.Module:
    """Call `build_network_architecture` of a trainer or trainer class, which may have the signature of nnU-Net before 2.6."""
    build = trainer.build_network_architecture
    sizes = (num_input_channels, num_output_channels, enable_deep_supervision)
    if "plans_manager" in inspect.signature(build).parameters:
        return build(plans_manager, configuration_manager, *sizes)
    warnings.warn("build_network_architecture has an outdated signature; it is (plans_manager, configuration_manager, num_input_channels, "
                  "num_output_channels, enable_deep_supervision) now.", DeprecationWarning, stacklevel=2)
    return build(configuration_manager.network_arch_class_name, configuration_manager.network_arch_init_kwargs,
                 configuration_manager.network_arch_init_kwargs_req_import, *sizes)


def trainer_with_own_network(name: str) -> type | None:
    """The trainer called `name`, out of a checkpoint, if it builds its network otherwise than the plans say; else None.

    Looked for among this package's trainers, in the folders that the user's nnUNet_extTrainer names and among what is imported; nothing else is imported.
    None too where there is no such trainer: whether the plans' network fits, the weights tell.
    """
    if name == "nnUNetTrainer" or not name.isidentifier():
        return None
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer  # the training room takes a second to import
    from nnunetv2.training.nnUNetTrainer.registry import find_trainer

    try:
        trainer = find_trainer(name)
    except InputError:
        return None
    return None if trainer.build_network_architecture is nnUNetTrainer.build_network_architecture else trainer
