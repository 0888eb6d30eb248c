"""What a prediction says about one case, for programs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnunetv2.imageio.image_arrays import to_sitk
from nnunetv2.imageio.simpleitk_reader_writer import turned_back
from nnunetv2.inference.case_prediction import CasePrediction
from nnunetv2.inference.coarse_roi import RoiReport
from nnunetv2.utilities.classification import ClassificationTask


@dataclass(frozen=True)
class CaseResult:
    """Mask, class and volumes of one case.

    mask: (Z, Y, X) uint8 or uint16, on the image's grid. probabilities: (S, Z, Y, X) float32 where they were asked for, else None.
    class_name: the likeliest class, None for a model without class head; class_probabilities: {class: probability}, {} without.
    lesion_found: False where the probabilities are the classes' shares of the training cases, for lack of a lesion; None where the
    class does not rest on the lesion.
    volumes_ml: {name of each label or region of dataset.json: millilitres}, 0 for what is not there; {} for a 2D image, which has
    no volume. roi: what roi "coarse" left out, None in other modes. properties: the image's geometry.
    """

    mask: np.ndarray
    probabilities: np.ndarray | None
    class_name: str | None
    class_probabilities: dict[str, float]
    volumes_ml: dict[str, float]
    roi: RoiReport | None = None
    properties: Mapping[str, Any] = field(default_factory=dict, repr=False)
    lesion_found: bool | None = None

    def mask_image(self) -> sitk.Image:
        """The mask as a SimpleITK image on the grid of the case's image."""
        return to_sitk(self.mask, self.properties)


def case_result(mask: np.ndarray, probabilities: np.ndarray | None, prediction: CasePrediction, properties: Mapping[str, Any],
                labels: Mapping[str, int | Sequence[int]], task: ClassificationTask | None) -> CaseResult:
    """mask, probabilities: of the image's grid; labels: dataset.json's; task: None without class head."""
    by_class = {} if task is None or prediction.class_probabilities is None else dict(zip(task.classes, map(float, prediction.class_probabilities)))
    return CaseResult(mask, probabilities, max(by_class, key=by_class.get) if by_class else None, by_class,
                      volumes_ml(mask, properties, labels), prediction.roi, properties, prediction.lesion_found)


def as_its_image(result: CaseResult, properties: Mapping[str, Any] | None = None) -> CaseResult:
    """Mask and probabilities of an image that the model's reader turned, with the axes of the image. properties: the image's, where they are known."""
    mask, of_image = turned_back(result.mask, result.properties)
    probabilities = None if result.probabilities is None else turned_back(result.probabilities, result.properties)[0]
    return replace(result, mask=mask, probabilities=probabilities, properties=properties or result.properties | of_image)


def volumes_ml(mask: np.ndarray, properties: Mapping[str, Any], labels: Mapping[str, int | Sequence[int]]) -> dict[str, float]:
    """Millilitres of each label or region but the background and what is ignored; {} for a 2D image."""
    geometry = properties.get("sitk_stuff")
    if geometry is not None and len(geometry["spacing"]) == 2:
        return {}
    voxel_ml = float(np.prod(properties["spacing"])) / 1000
    voxels = sum(np.bincount(plane.ravel(), minlength=int(mask.max()) + 1) for plane in mask)  # by plane: counting makes them int64
    return {name: sum(int(voxels[label]) for label in set(np.atleast_1d(value).tolist()) if label < len(voxels)) * voxel_ml
            for name, value in labels.items() if name != "ignore" and value not in (0, "0")}
