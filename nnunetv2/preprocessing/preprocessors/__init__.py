"""The preprocessors that plans files name."""

from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

_PREPROCESSORS = {"DefaultPreprocessor": DefaultPreprocessor}


def preprocessor_by_name(name: str) -> type[DefaultPreprocessor]:
    """The class behind `preprocessor_name` of a configuration. ValueError for unknown names."""
    if name not in _PREPROCESSORS:
        raise ValueError(f"Unknown preprocessor {name!r} in the plans. Known: {', '.join(_PREPROCESSORS)}.")
    return _PREPROCESSORS[name]
