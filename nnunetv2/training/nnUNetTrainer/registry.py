"""Find a trainer class by name: below this folder, in the folders of $nnUNet_extTrainer, among those that are imported, or by import path."""

import importlib
import inspect
import os
import pkgutil
from pathlib import Path

import nnunetv2.training.nnUNetTrainer as room
from nnunetv2 import paths
from nnunetv2.utilities.classes_by_name import recursive_find_python_class
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.errors import InputError

FOLDERS_VARIABLE = paths.TRAINERS  # folders of the user's own trainers, separated as PATH is


def available_trainers() -> dict[str, type[nnUNetTrainer]]:
    """Name -> class of nnUNetTrainer and its subclasses in modules below this folder."""
    modules = [importlib.import_module(module.name) for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}.")]
    return {name: value for module in modules for name, value in vars(module).items()
            if inspect.isclass(value) and issubclass(value, nnUNetTrainer) and name == value.__name__ and not name.startswith("_")}


def find_trainer(name: str) -> type[nnUNetTrainer]:
    """`name`: a trainer of this package, of a file below $nnUNet_extTrainer, or that the program has imported, or `package.module:Class`, importable as it stands.

    InputError that lists the known ones when there is none, or when the class is no trainer.
    """
    if ":" in name:
        module_name, class_name = name.split(":", 1)
        try:
            found = getattr(importlib.import_module(module_name), class_name)
        except (ImportError, AttributeError) as error:
            raise InputError(f"Trainer {name!r} cannot be imported: {error}. Put its folder on PYTHONPATH.") from error
    elif name == nnUNetTrainer.__name__:
        return nnUNetTrainer
    else:
        trainers = available_trainers()
        found = trainers.get(name) or _external_trainer(name) or _imported_trainer(name)
        if found is None:
            raise InputError(f"There is no trainer {name!r}. Known: {', '.join(sorted(trainers))}; or give 'package.module:Class'. "
                             f"Put your own below {room.__path__[0]} or into a folder that {FOLDERS_VARIABLE} names.")
    if not (isinstance(found, type) and issubclass(found, nnUNetTrainer)):
        raise InputError(f"{name!r} is no subclass of nnUNetTrainer.")
    return found


def _external_trainer(name: str) -> type | None:
    for folder in map(os.path.expanduser, filter(None, os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep))):
        if not Path(folder).is_dir():
            raise InputError(f"{FOLDERS_VARIABLE} names {folder}, which is not a folder.")
        found = recursive_find_python_class(folder, name, None)
        if found is not None:
            return found
    return None


def _imported_trainer(name: str) -> type | None:
    """A class of this name that is there already; who imported it trusts it, be it a program or a command's `-tr package.module:Class`."""
    waiting: list[type] = [nnUNetTrainer]
    while waiting:
        trainer = waiting.pop()
        if trainer.__name__ == name:
            return trainer
        waiting += trainer.__subclasses__()
    return None
