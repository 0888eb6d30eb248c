"""The preprocessors that plans files name."""

from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.trusted_names import resolve

_PREPROCESSORS = {"DefaultPreprocessor": DefaultPreprocessor}


def preprocessor_by_name(name: str, where: object = "plans") -> type[DefaultPreprocessor]:
    """The class behind `preprocessor_name` of a configuration: ours, or a subclass of a package that the user trusts. InputError for others."""
    return resolve(name, "preprocessor_name", where, _PREPROCESSORS, lambda found: isinstance(found, type) and issubclass(found, DefaultPreprocessor))
