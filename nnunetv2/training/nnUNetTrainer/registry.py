"""Find a trainer class by name, or by import path for one that lives outside this package."""

import importlib
import pkgutil

from nnunetv2.training.nnUNetTrainer import variants
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


def available_trainers() -> dict[str, type[nnUNetTrainer]]:
    """Name -> class of nnUNetTrainer and its subclasses in `nnUNetTrainer/variants/`."""
    for module in pkgutil.iter_modules(variants.__path__):
        importlib.import_module(f"{variants.__name__}.{module.name}")
    found, waiting = {}, [nnUNetTrainer]
    while waiting:
        trainer = waiting.pop()
        found[trainer.__name__] = trainer
        waiting += trainer.__subclasses__()
    return found


def find_trainer(name: str) -> type[nnUNetTrainer]:
    """`name`: a class of `available_trainers`, or `package.module:Class` (the module must be importable, e.g. on PYTHONPATH)."""
    if ":" in name:
        module_name, class_name = name.split(":", 1)
        try:
            trainer = getattr(importlib.import_module(module_name), class_name)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"Trainer {name!r} cannot be imported: {error}. Put its folder on PYTHONPATH.") from error
        if not (isinstance(trainer, type) and issubclass(trainer, nnUNetTrainer)):
            raise TypeError(f"{name!r} is no subclass of nnUNetTrainer.")
        return trainer
    trainers = available_trainers()
    if name not in trainers:
        raise ValueError(f"There is no trainer {name!r}. Known: {', '.join(sorted(trainers))}; or give 'package.module:Class'. "
                         "New ones go into nnunetv2/training/nnUNetTrainer/variants/.")
    return trainers[name]
