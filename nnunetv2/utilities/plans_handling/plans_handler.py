"""Plans as objects: PlansManager holds a plans.json, ConfigurationManager one of its configurations, inheritance resolved."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property, partial
from typing import Any

from nnunetv2.imageio.reader_writer_registry import reader_writer_by_name
from nnunetv2.utilities import label_handling
from nnunetv2.utilities.ct_statistics import missing_statistics
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.file_shapes import Plans
from nnunetv2.utilities.files import check_shape, load_json
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.old_plans import with_architecture
from nnunetv2.utilities.safe_names import plain_name
from nnunetv2.utilities.trusted_names import plain_arguments, resolve, with_own_files

_GIVEN_TO_RESAMPLING = ("data", "new_shape", "current_spacing", "new_spacing", "device")  # by the caller, not by plans


class ConfigurationManager:
    """One configuration (`2d`, `3d_fullres`, ...). Sizes and spacings are in the plans' transposed axis order, mm."""

    def __init__(self, configuration_dict: dict, source: object = "plans"):
        """source: the file that it comes from, for messages."""
        self.source = source
        self.configuration = configuration_dict if "architecture" in configuration_dict else with_architecture(configuration_dict)

    def __repr__(self) -> str:
        return repr(self.configuration)

    def _value(self, key: str) -> Any:
        if self.configuration.get(key) is None:
            raise InputError(f"{self.source}: the configuration lacks {key!r}. Plan the dataset again, or take the plans from where they came.")
        return self.configuration[key]

    def _of_architecture(self, key: str) -> Any:
        if key not in self._value("architecture"):
            raise InputError(f"{self.source}: the configuration lacks 'architecture.{key}'. Plan the dataset again, or take the plans from where they came.")
        return self.configuration["architecture"][key]

    @property
    def data_identifier(self) -> str:
        """Folder of the preprocessed cases, one component; configurations that share it share the data."""
        return plain_name(self._value("data_identifier"), "data_identifier", self.source, taken=("gt_segmentations",))

    @property
    def batch_size(self) -> int:
        return self._value("batch_size")

    @property
    def patch_size(self) -> list[int]:
        return self._value("patch_size")

    @property
    def median_image_size_in_voxels(self) -> list[float]:
        return self._value("median_image_size_in_voxels")

    @property
    def spacing(self) -> list[float]:
        return self._value("spacing")

    @property
    def normalization_schemes(self) -> list[str]:
        """One name a channel."""
        return self._value("normalization_schemes")

    @property
    def use_mask_for_norm(self) -> list[bool]:
        return self._value("use_mask_for_norm")

    @property
    def batch_dice(self) -> bool:
        return self._value("batch_dice")

    @property
    def network_arch_class_name(self) -> str:
        return self._of_architecture("network_class_name")

    @property
    def network_arch_init_kwargs(self) -> dict[str, Any]:
        return self._of_architecture("arch_kwargs")

    @property
    def network_arch_init_kwargs_req_import(self) -> list[str]:
        """Names of the keyword arguments whose value is an import path."""
        return self._of_architecture("_kw_requires_import")

    @property
    def pool_op_kernel_sizes(self) -> list[list[int]]:
        """Stride a stage, (1, 1, 1) first."""
        return self.network_arch_init_kwargs["strides"]

    @property
    def class_head(self) -> dict[str, Any] | None:
        """Description of the classification head; None for plain segmentation. Upstream's reader never looks at it."""
        return self._value("architecture").get("class_head")

    @property
    def previous_stage_name(self) -> str | None:
        name = self.configuration.get("previous_stage")
        return None if name is None else plain_name(name, "previous_stage", self.source)

    @property
    def next_stage_names(self) -> list[str] | None:
        names = self.configuration.get("next_stage")
        return [names] if isinstance(names, str) else names

    @property
    def preprocessor_name(self) -> str:
        return self._value("preprocessor_name")

    @cached_property
    def preprocessor_class(self) -> type:
        from nnunetv2.preprocessing.preprocessors import preprocessor_by_name  # they read plans: a cycle at module level

        return preprocessor_by_name(self.preprocessor_name, self.source)

    @cached_property
    def resampling_fn_data(self) -> Callable:
        return self._resampling_fn("resampling_fn_data")

    @cached_property
    def resampling_fn_seg(self) -> Callable:
        return self._resampling_fn("resampling_fn_seg")

    @cached_property
    def resampling_fn_probabilities(self) -> Callable:
        return self._resampling_fn("resampling_fn_probabilities")

    def _resampling_fn(self, key: str) -> Callable:
        from nnunetv2.preprocessing.resampling import resampling_fn_by_name  # slow to import, needed only to resample

        function = resampling_fn_by_name(self._value(key), self.source)
        arguments = plain_arguments(function, self._value(f"{key}_kwargs"), f"{key}_kwargs", self.source, _GIVEN_TO_RESAMPLING)
        return partial(function, **arguments)


def _as_json(value: Any) -> Any:
    """What numpy's numbers and arrays would be in a file; anything else as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


_source: ContextVar[str] = ContextVar("source", default="plans")


@contextmanager
def plans_from(path: str | os.PathLike) -> Iterator[None]:
    """Within the block, plans that are given as a dict are said to come from `path` in messages: upstream's trainers take no file."""
    token = _source.set(os.fspath(path))
    try:
        yield
    finally:
        _source.reset(token)


class PlansManager:
    """A plans.json: what all its configurations share, and access to each of them.

    InputError for a damaged file and for wrong values, in a file or a dict; what is missing is missed where it is asked for.
    """

    def __init__(self, plans_file_or_dict: str | os.PathLike | dict):
        self.source = _source.get() if isinstance(plans_file_or_dict, dict) else os.fspath(plans_file_or_dict)  # for messages
        if isinstance(plans_file_or_dict, dict):
            self.plans = plans_file_or_dict
            check_shape(json.loads(json.dumps(self.plans, default=_as_json)), Plans, "the plans given as a dict", partial=True)
        else:
            self.plans = load_json(plans_file_or_dict, Plans, partial=True)

    def __repr__(self) -> str:
        return repr(self.plans)

    def _value(self, key: str) -> Any:
        if key not in self.plans:
            raise InputError(f"{self.source} lacks {key!r}. Plan the dataset again, or take the plans from where they came.")
        return self.plans[key]

    def get_configuration(self, configuration_name: str) -> ConfigurationManager:
        """Configuration with its ancestors' values filled in; its own take precedence. ValueError for unknown names and cycles."""
        chain: list[str] = []
        name: str | None = plain_name(configuration_name, "configuration", self.source)
        while name is not None:
            if name not in self._value("configurations"):
                raise InputError(f"{self.source} has no configuration {name!r} (asked for {configuration_name!r}); "
                                 f"available: {', '.join(self.available_configurations)}.")
            if name in chain:
                raise InputError(f"{self.source}: circular inheritance, {' -> '.join([*chain, name])}. Correct 'inherits_from'.")
            chain.append(name)
            name = self._value("configurations")[name].get("inherits_from")
        merged: dict[str, Any] = {}
        for name in reversed(chain):
            merged |= self._value("configurations")[name]
        self._refuse_missing_statistics(configuration_name, merged.get("normalization_schemes", ()))
        return ConfigurationManager(merged, self.source)

    def _refuse_missing_statistics(self, name: str, schemes: Sequence[str]) -> None:
        """InputError for CT channels without statistics, now rather than at the first image or after the training."""
        lacking = {channel: missing for channel, scheme in enumerate(schemes) if scheme == "CTNormalization"
                   and (missing := missing_statistics(self.foreground_intensity_properties_per_channel.get(str(channel), {})))}
        if lacking:
            raise InputError(f"{self.source}: foreground_intensity_properties_per_channel lacks what configuration {name} needs for CT: "
                             + "; ".join(f"{', '.join(missing)} of channel {channel}" for channel, missing in lacking.items()) + ". Plan the dataset again.")

    @property
    def available_configurations(self) -> list[str]:
        return list(self._value("configurations"))

    @property
    def dataset_name(self) -> str:
        return plain_name(self._value("dataset_name"), "dataset_name", self.source)

    @property
    def plans_name(self) -> str:
        return plain_name(self._value("plans_name"), "plans_name", self.source)

    @property
    def original_median_spacing_after_transp(self) -> list[float]:
        return self._value("original_median_spacing_after_transp")

    @property
    def original_median_shape_after_transp(self) -> list[int]:
        return self._value("original_median_shape_after_transp")

    @property
    def transpose_forward(self) -> list[int]:
        """Axis order of arrays read from disk -> axis order of the plans, as numpy's transpose takes it."""
        return self._value("transpose_forward")

    @property
    def transpose_backward(self) -> list[int]:
        return self._value("transpose_backward")

    def intensities_of(self, channel: int) -> dict[str, float]:
        """Statistics of a channel over the foreground of the training cases; InputError where the plans have none of it."""
        known = self.foreground_intensity_properties_per_channel
        if str(channel) not in known:
            raise InputError(f"{self.source}: foreground_intensity_properties_per_channel lacks channel {channel}; it has {', '.join(known) or 'none'}. Plan the dataset again.")
        return known[str(channel)]

    @property
    def foreground_intensity_properties_per_channel(self) -> dict[str, dict[str, float]]:
        return self._value("foreground_intensity_properties_per_channel")

    @property
    def experiment_planner_name(self) -> str:
        return self._value("experiment_planner_used")

    @property
    def label_manager_class(self) -> type[LabelManager]:
        """LabelManager, a subclass in a file below nnunetv2/utilities/label_handling, or one of a package that the user trusts."""
        name = self.plans.get("label_manager", "LabelManager")
        return resolve(name, "label_manager", self.source, with_own_files(name, {"LabelManager": LabelManager}, label_handling, LabelManager),
                       lambda found: isinstance(found, type) and issubclass(found, LabelManager))

    @property
    def image_reader_writer_class(self) -> type:
        return reader_writer_by_name(self._value("image_reader_writer"), self.source)

    def get_label_manager(self, dataset_json: dict, **kwargs) -> LabelManager:
        return self.label_manager_class(dataset_json["labels"], dataset_json.get("regions_class_order"), **kwargs)
