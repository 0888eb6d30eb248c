"""The preprocessors that plans files name."""

import nnunetv2.preprocessing as room
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.trusted_names import resolve, with_own_files

_PREPROCESSORS = {"DefaultPreprocessor": DefaultPreprocessor}


def preprocessor_by_name(name: str, where: object = "plans") -> type[DefaultPreprocessor]:
    """The class behind `preprocessor_name` of a configuration: ours, a subclass in a file below nnunetv2/preprocessing, or one of a package that the user trusts.

    InputError for others.
    """
    known = with_own_files(name, _PREPROCESSORS, room, DefaultPreprocessor)
    return resolve(name, "preprocessor_name", where, known, lambda found: isinstance(found, type) and issubclass(found, DefaultPreprocessor))
