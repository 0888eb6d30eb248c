"""The preprocessors that plans files name."""

import nnunetv2.preprocessing as room
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.trusted_names import classes_below, resolve

_PREPROCESSORS = {"DefaultPreprocessor": DefaultPreprocessor}


def preprocessor_by_name(name: str, where: object = "plans") -> type[DefaultPreprocessor]:
    """The class behind `preprocessor_name` of a configuration: ours, a subclass in a file below nnunetv2/preprocessing, or one of a package that the user trusts.

    InputError for others.
    """
    plain = isinstance(name, str) and "." not in name and name not in _PREPROCESSORS
    known = _PREPROCESSORS | classes_below(room, DefaultPreprocessor) if plain else _PREPROCESSORS
    return resolve(name, "preprocessor_name", where, known, lambda found: isinstance(found, type) and issubclass(found, DefaultPreprocessor))
