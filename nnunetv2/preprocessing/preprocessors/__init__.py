"""The preprocessors that plans files name."""

import importlib
import pkgutil

import nnunetv2.preprocessing as room
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.trusted_names import resolve

_PREPROCESSORS = {"DefaultPreprocessor": DefaultPreprocessor}


def preprocessor_by_name(name: str, where: object = "plans") -> type[DefaultPreprocessor]:
    """The class behind `preprocessor_name` of a configuration: ours, a subclass in a file below nnunetv2/preprocessing, or one of a package that the user trusts.

    InputError for others.
    """
    plain = isinstance(name, str) and "." not in name and name not in _PREPROCESSORS
    known = _PREPROCESSORS | _own_files() if plain else _PREPROCESSORS
    return resolve(name, "preprocessor_name", where, known, lambda found: isinstance(found, type) and issubclass(found, DefaultPreprocessor))


def _own_files() -> dict[str, type[DefaultPreprocessor]]:
    """{name: class} of the subclasses in modules that people put below nnunetv2/preprocessing."""
    found = {}
    for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
        content = vars(importlib.import_module(module.name))
        found |= {name: value for name, value in content.items()
                  if isinstance(value, type) and issubclass(value, DefaultPreprocessor) and value.__module__ == module.name}
    return found
