"""What nnU-Net's JSON files must hold: one class a file, for `load_json(path, shape)`.

Only what this code base reads is listed; further keys may hold anything, since nnU-Net's own files carry more. Types are
strict (no text for numbers, no true for 1) and numbers finite, so that later code meets what it expects.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel, ValidationError, model_validator

from nnunetv2.utilities.files import GENERATED
from nnunetv2.utilities.safe_names import name_problem

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Text = Annotated[str, Field(min_length=1)]
SMALLEST_SPACING = 1e-6  # mm, a nanometre: less is a mistake of units, and would ask for terabytes
MAX_LABEL = 32767  # label maps are stored as int16


@dataclass(frozen=True)
class Problem:
    """One wrong place of a file."""

    place: str  # configurations.2d.patch_size[0]
    text: str
    absent: bool  # the value is not there at all

    def __str__(self) -> str:
        return f"{self.place}: {self.text}" if self.place else self.text


class _Problems:
    NEEDED: ClassVar[tuple[str, ...]] = ()  # keys that a file must have even where a part of them is enough
    REMEDY: ClassVar[str] = GENERATED  # other words for files that people write

    @classmethod
    def problems(cls, content: Any) -> list[Problem]:
        """Every place where `content`, as json reads it, is not of this shape."""
        try:
            cls.model_validate(content)
        except ValidationError as error:
            return [_in_words(entry) for entry in error.errors(include_url=False, include_context=False)]
        return []

    @classmethod
    def in_present_terms(cls, content: Any) -> Any:
        """`content` with keys of older versions under their present names."""
        return content


class FileShape(_Problems, BaseModel):
    """An object; keys that are not declared may hold anything."""

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())


class FileShapeOf(_Problems, RootModel):
    """A list, or an object with free keys."""

    model_config = ConfigDict(strict=True)


def _in_words(entry: dict) -> Problem:
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in entry["loc"]).lstrip(".")
    if entry["type"] == "missing":
        return Problem(place, "is missing", True)
    value = repr(entry["input"])
    value = value if len(value) <= 60 else value[:57] + "..."
    message = entry["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    message = message.replace("a valid dictionary or instance of", "an object, here").replace("a valid dictionary", "an object")
    return Problem(place, f"{value}: {message}", False)


def checked(check: Callable[[Any], bool], expected: str) -> AfterValidator:
    """Validator of a value that `check` must accept; an error of `check` itself is a no."""
    def validate(value: Any) -> Any:
        try:
            accepted = check(value)
        except (TypeError, ValueError, AttributeError, KeyError):
            accepted = False
        if not accepted:
            raise ValueError(f"must be {expected}")
        return value
    return AfterValidator(validate)


def whole(value: Any, low: int = 0, high: int = 2**31 - 1) -> bool:
    """Whether `value` is an integer (no bool) within [low, high]."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_label(value: Any) -> bool:
    if isinstance(value, str):  # dataset.json files of old have "0"
        return re.fullmatch(r"\d{1,5}", value) is not None and int(value) <= MAX_LABEL
    return whole(value, 0, MAX_LABEL)


def _all_sizes(value: Any, low: int = 1) -> bool:
    """A positive whole number, or lists of them, nested."""
    return all(_all_sizes(item, low) for item in value) if isinstance(value, list) else whole(value, low)


Label = Annotated[Any, checked(lambda v: bool(v) and all(map(_is_label, v)) if isinstance(v, list) else _is_label(v),
                               f"a label, a whole number from 0 to {MAX_LABEL}, or a list of labels")]
PlainLabel = Annotated[Any, checked(_is_label, f"a label, a whole number from 0 to {MAX_LABEL}")]
Sizes = Annotated[Any, checked(_all_sizes, "a positive whole number or lists of them")]
Counts = Annotated[Any, checked(lambda v: _all_sizes(v, 0), "a whole number or a list of them")]
AxisOrder = Annotated[list[int], checked(lambda v: sorted(v) == list(range(len(v))) and len(v) == 3, "an order of the axes 0, 1 and 2")]
SpatialSize = Annotated[list[Count], Field(min_length=2, max_length=3)]
SpatialSpacing = Annotated[list[Annotated[float, Field(ge=SMALLEST_SPACING, allow_inf_nan=False)]], Field(min_length=2, max_length=3)]


def _component(value: str) -> str:
    if (reason := name_problem(value)) is not None:
        raise ValueError(f"{reason}; letters, digits, '_', '-' and '.' are always safe")
    return value


PathComponent = Annotated[str, AfterValidator(_component)]  # a name that becomes a file, a folder or a part of one
MAX_CHANNELS = 10_000  # a channel's number has four digits in file names


class _CaseFiles(FileShape):
    images: list[Text] = Field(min_length=1)
    label: Text


class Classification(FileShape):
    name: PathComponent
    classes: Annotated[list[Annotated[Any, checked(lambda v: whole(v) or name_problem(v) is None, "the name of a class: plain text, no path")]],
                       Field(min_length=2), checked(lambda classes: len(set(map(str, classes))) == len(classes), "different names")]
    labels: PathComponent
    lesion_labels: list[PlainLabel] = Field(default=[0], min_length=1)


def _usable_labels(labels: dict[str, Any]) -> dict[str, Any]:
    """Channel k of the network's output is label k, unless it is a region, and each name has one of its own."""
    found = {int(label) for name, value in labels.items() if name != "ignore" for label in (value if isinstance(value, list) else [value])}
    regions = any(isinstance(value, list) and len(value) > 1 for value in labels.values())  # as LabelManager tells them: their values may be any
    if 0 in found and len(found) != max(found) + 1 and not regions:
        raise ValueError(f"labels {sorted(found)} must be {', '.join(map(str, range(len(found))))}, without a gap")
    plain = sorted(int(value) for value in labels.values() if not isinstance(value, list))
    if len(plain) != len(set(plain)):
        raise ValueError(f"labels {plain} must differ, one a name")
    return labels


def with_channel_names(dataset_json: Any) -> Any:
    """dataset.json with `channel_names`, which older ones call `modality`."""
    if isinstance(dataset_json, dict) and "channel_names" not in dataset_json and "modality" in dataset_json:
        return dataset_json | {"channel_names": dataset_json["modality"]}
    return dataset_json


def whole_as_int(value: Any) -> Any:
    """Whole numbers that were written with a point, 1.0, as integers; of lists and objects all that they hold. Other values stay."""
    if isinstance(value, dict):
        return {key: whole_as_int(item) for key, item in value.items()}
    if isinstance(value, list):
        return [whole_as_int(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


class DatasetJson(FileShape):
    """dataset.json beside a model, where the number of training cases means nothing."""

    channel_names: dict[str, str] = Field(min_length=1, max_length=MAX_CHANNELS)
    labels: Annotated[dict[str, Label], Field(min_length=1), AfterValidator(_usable_labels)]
    file_ending: str = Field(pattern=r"^\.")
    numTraining: int | None = Field(default=None, ge=0)
    regions_class_order: list[PlainLabel] | None = None
    overwrite_image_reader_writer: str | None = None
    dataset: dict[str, _CaseFiles] = {}
    holdout: list[Text] = []
    classification: Classification | None = None

    @classmethod
    def in_present_terms(cls, content: Any) -> Any:
        content = with_channel_names(content)
        if not isinstance(content, dict):
            return content
        return content | {key: whole_as_int(content[key]) for key in ("labels", "regions_class_order", "numTraining") if key in content}


class RawDatasetJson(DatasetJson):
    """dataset.json of a raw dataset."""

    REMEDY = "Correct it, or run again what wrote it."

    numTraining: int = Field(ge=0)


class OldDatasetJson(FileShape):
    """dataset.json of the Decathlon and of nnU-Net v1: labels go from value to name, channels are `modality`."""

    labels: dict[Annotated[str, checked(str.isdecimal, "a label, a whole number")], Text] = Field(min_length=1)
    modality: dict[str, Text] = Field(min_length=1)
    name: str | None = None


class _Architecture(FileShape):
    class _Arguments(FileShape):
        n_stages: Annotated[int, Field(ge=1, le=32)] = 1
        features_per_stage: Sizes = 1
        kernel_sizes: Sizes = 1
        strides: Sizes = 1
        n_blocks_per_stage: Sizes = 1
        n_conv_per_stage: Sizes = 1
        n_conv_per_stage_decoder: Sizes = 1
        norm_op_kwargs: dict[str, Any] | None = None
        dropout_op_kwargs: dict[str, Any] | None = None
        nonlin_kwargs: dict[str, Any] | None = None

    network_class_name: Text
    arch_kwargs: _Arguments
    kw_requires_import: list[str] = Field(alias="_kw_requires_import")
    class_head: dict[str, Any] | None = None


class _Configuration(FileShape):
    """One configuration of plans; what it lacks may come from the one it inherits from, so nothing is required here."""

    inherits_from: Text | None = None
    data_identifier: PathComponent | None = None
    preprocessor_name: Text | None = None
    batch_size: Count | None = None
    patch_size: SpatialSize | None = None
    median_image_size_in_voxels: list[Positive] | None = None
    spacing: SpatialSpacing | None = None
    normalization_schemes: list[Text] | None = Field(default=None, min_length=1)
    use_mask_for_norm: list[bool] | None = Field(default=None, min_length=1)
    batch_dice: bool | None = None
    resampling_fn_data: Text | None = None
    resampling_fn_seg: Text | None = None
    resampling_fn_probabilities: Text | None = None
    resampling_fn_data_kwargs: dict[str, Any] | None = None
    resampling_fn_seg_kwargs: dict[str, Any] | None = None
    resampling_fn_probabilities_kwargs: dict[str, Any] | None = None
    architecture: _Architecture | None = None
    UNet_base_num_features: Count | None = None  # these and the following: plans from before nnU-Net 2.4
    unet_max_num_features: Count | None = None
    n_conv_per_stage_encoder: Annotated[list[Count], Field(min_length=1)] | None = None
    n_conv_per_stage_decoder: list[Count] | None = None
    pool_op_kernel_sizes: Sizes = 1
    conv_kernel_sizes: Sizes = 1
    previous_stage: Text | None = None
    next_stage: Annotated[Any, checked(lambda v: v is None or isinstance(v, str) or all(isinstance(name, str) for name in v),
                                       "the name of a configuration, or a list of names")] = None

    @model_validator(mode="after")
    def _dimensions_agree(self) -> "_Configuration":
        if self.patch_size and self.spacing and len(self.patch_size) != len(self.spacing):
            raise ValueError(f"patch_size {self.patch_size} and spacing {self.spacing} must have as many axes as one another")
        return self


class Plans(FileShape):
    """A plans file, of a dataset or beside a model."""

    NEEDED = ("configurations",)

    dataset_name: PathComponent
    plans_name: PathComponent
    original_median_spacing_after_transp: SpatialSpacing
    original_median_shape_after_transp: list[Positive] = Field(min_length=2, max_length=3)
    image_reader_writer: Text
    transpose_forward: AxisOrder
    transpose_backward: AxisOrder
    configurations: dict[str, _Configuration]
    experiment_planner_used: Text | None = None
    label_manager: Text | None = None
    foreground_intensity_properties_per_channel: dict[str, dict[str, Finite]]


class Fingerprint(FileShape):
    """dataset_fingerprint.json."""

    spacings: list[Annotated[list[Positive], Field(min_length=2, max_length=3)]] = Field(min_length=1)
    shapes_after_crop: list[Annotated[list[Count], Field(min_length=2, max_length=3)]] = Field(min_length=1)
    foreground_intensity_properties_per_channel: dict[str, dict[str, Finite]] = Field(min_length=1)
    median_relative_size_after_cropping: Positive

    @model_validator(mode="after")
    def _as_many_shapes_as_spacings(self) -> "Fingerprint":
        if len(self.spacings) != len(self.shapes_after_crop):
            raise ValueError(f"{len(self.spacings)} spacings and {len(self.shapes_after_crop)} shapes; there must be one of each a case")
        return self


class _Split(FileShape):
    train: list[Text]
    val: list[Text]


class Splits(FileShapeOf):
    """splits_final.json: a list of folds."""

    root: list[_Split] = Field(min_length=1)


LabelKey = Annotated[str, checked(lambda v: re.fullmatch(r"\d{1,5}|\(\d{1,5}(, ?\d{1,5})*,?\)", v), "a label such as 1, or a region such as (1, 2)")]
Scores = dict[str, float]  # NaN stands for undefined, as upstream writes it


class Summary(FileShape):
    """summary.json of an evaluated folder."""

    class _Case(FileShape):
        reference_file: Text
        prediction_file: Text
        metrics: dict[LabelKey, Scores]

    class _Mean(FileShape):
        Dice: float

    metric_per_case: list[_Case]
    mean: dict[LabelKey, Scores]
    foreground_mean: _Mean


class Postprocessing(FileShape):
    """postprocessing.json: names of functions, and as many sets of arguments."""

    class _Arguments(FileShape):
        labels_or_regions: Annotated[Any, checked(
            lambda v: whole(v) or all(whole(item) or isinstance(item, list) and bool(item) and all(map(whole, item)) for item in v),
            "a label, a region or a list of them")]

    postprocessing_fns: list[str]
    postprocessing_kwargs: list[_Arguments]

    @model_validator(mode="after")
    def _as_many_arguments_as_functions(self) -> "Postprocessing":
        if len(self.postprocessing_fns) != len(self.postprocessing_kwargs):
            raise ValueError(f"{len(self.postprocessing_fns)} functions and {len(self.postprocessing_kwargs)} sets of arguments; there must be as many")
        return self


class Progress(FileShapeOf):
    """progress.json of a training: a list of values a key, one an epoch; a value is a number, or a list of numbers, one a label or class."""

    root: Annotated[dict[str, list[float | None] | list[list[float | None]]], Field(min_length=1)]

    @model_validator(mode="after")
    def _as_many_in_each_epoch(self) -> "Progress":
        uneven = [key for key, values in self.root.items() if len({len(value) for value in values if isinstance(value, list)}) > 1]
        if uneven:
            raise ValueError(f"{', '.join(uneven)} must list as many values in each epoch")
        return self


class Manifest(FileShape):
    """manifest.json of a dataset, a trained fold or a folder of predictions: each has some of these sections."""

    format: int  # every one has it, whatever its sections

    class _Planned(FileShape):
        dataset_json: DatasetJson
        cases: list[Text]
        split: list[_Split] | None
        class_labels: str | None

    class _Training(FileShape):
        settings: dict[str, Any]
        plans: dict[str, Any]
        dataset: dict[str, Any]
        split: _Split
        own_split: bool = False  # by the trainer's own do_split
        class_labels: dict[str, str]
        cases: dict[str, str]

    class _MadeWith(FileShape):
        class _Model(FileShape):
            checkpoints: dict[str, str]
            trained_on: list[str] | None

        model: _Model
        settings: dict[str, Any]

    class _Predicted(FileShape):
        made_with: str | None
        inputs: dict[str, Annotated[list[int | str | None], Field(min_length=3, max_length=3)]]  # size, mtime_ns, hash
        sha256: str | None

    code: dict[str, Any] = {}
    files: dict[str, Annotated[list[int | str], Field(min_length=4, max_length=4)]] = {}  # size, mtime_ns, ctime_ns, sha256
    planned: _Planned | None = None
    fingerprint: dict[str, str] = {}
    preprocessed: dict[str, dict[str, str]] = {}
    default_split: str = ""
    training: _Training | None = None
    checkpoints: dict[str, str] = {}
    made_with: _MadeWith | None = None
    makers: dict[str, _MadeWith] = {}
    cases: dict[str, _Predicted] = {}
    data: str = ""
    sources: dict[str, dict[str, str]] = {}
    tables: dict[str, str] = {}


class AnyObject(FileShapeOf):
    """A JSON object with whatever keys."""

    root: dict[str, Any]


def finite(value: Any) -> bool:
    """Whether `value` is a finite number (no bool)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
