"""Intensity normalisation. The names in SCHEMES are the ones that plans files hold.

A scheme is made for a channel, and `run` changes a float32 image in place:

    CTNormalization(use_mask_for_norm=False, intensityproperties=intensities).run(image)
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import nnunetv2.preprocessing as room
from nnunetv2.utilities.ct_statistics import ct_statistics
from nnunetv2.utilities.trusted_names import name_of, resolve, with_own_files


class ImageNormalization(ABC):
    """Base of all schemes, one's own included.

    use_mask_for_norm: whether only the voxels inside the non-zero mask count; a scheme heeds it that says
    `leaves_pixels_outside_mask_at_zero_if_use_mask_for_norm_is_true`. intensityproperties: the fingerprint's statistics of the channel
    over the foreground of the training cases.
    """

    leaves_pixels_outside_mask_at_zero_if_use_mask_for_norm_is_true: bool | None = None

    def __init__(self, use_mask_for_norm: bool | None = None, intensityproperties: Mapping[str, float] | None = None, target_dtype: Any = np.float32):
        self.use_mask_for_norm, self.intensityproperties, self.target_dtype = use_mask_for_norm, intensityproperties, target_dtype
        self.smallest_sd = 1e-4 if target_dtype == np.float16 else 1e-8  # a constant image is only centred

    @abstractmethod
    def run(self, image: np.ndarray, seg: np.ndarray | None = None) -> np.ndarray:
        """image, seg (Z, Y, X) -> the image in `target_dtype`, in place where it has that already. seg < 0 is outside the non-zero mask."""

    def _typed(self, image: np.ndarray) -> np.ndarray:
        return image.astype(self.target_dtype, copy=False)


class ZScoreNormalization(ImageNormalization):
    """Standardise with the image's own mean and SD. With a mask: over its voxels, and the others keep their zero."""

    leaves_pixels_outside_mask_at_zero_if_use_mask_for_norm_is_true = True

    def run(self, image: np.ndarray, seg: np.ndarray | None = None) -> np.ndarray:
        image = self._typed(image)
        inside = None
        if self.use_mask_for_norm:
            if seg is None:
                raise ValueError("ZScoreNormalization with use_mask_for_norm needs the segmentation that tells the mask, seg >= 0.")
            inside = seg >= 0
        voxels = image if inside is None else image[inside]
        if voxels.size == 0:
            return image
        mean, sd = voxels.mean(), max(voxels.std(), self.smallest_sd)
        if inside is None:
            image -= mean
            image /= sd
        else:
            image[inside] = (voxels - mean) / sd
        return image


class CTNormalization(ImageNormalization):
    """Clip to the 0.5 and 99.5 percentiles of the foreground of all training cases, then standardise with its mean and SD."""

    leaves_pixels_outside_mask_at_zero_if_use_mask_for_norm_is_true = False

    def run(self, image: np.ndarray, seg: np.ndarray | None = None) -> np.ndarray:
        of = ct_statistics(self.intensityproperties or {})
        image = self._typed(image)
        np.clip(image, of["percentile_00_5"], of["percentile_99_5"], out=image)
        image -= of["mean"]
        image /= max(of["std"], self.smallest_sd)
        return image


class NoNormalization(ImageNormalization):
    """As it is."""

    leaves_pixels_outside_mask_at_zero_if_use_mask_for_norm_is_true = False

    def run(self, image: np.ndarray, seg: np.ndarray | None = None) -> np.ndarray:
        return self._typed(image)


class RescaleTo01Normalization(ImageNormalization):
    """Minimum to 0, maximum to 1. A constant image becomes 0."""

    leaves_pixels_outside_mask_at_zero_if_use_mask_for_norm_is_true = False

    def run(self, image: np.ndarray, seg: np.ndarray | None = None) -> np.ndarray:
        image = self._typed(image)
        image -= image.min()
        image /= max(image.max(), self.smallest_sd)
        return image


class RGBTo01Normalization(ImageNormalization):
    """0..255 to 0..1."""

    leaves_pixels_outside_mask_at_zero_if_use_mask_for_norm_is_true = False

    def run(self, image: np.ndarray, seg: np.ndarray | None = None) -> np.ndarray:
        low, high = image.min(), image.max()
        if low < 0 or high > 255:
            raise ValueError(f"RGBTo01Normalization expects values in 0..255, found {low:g}..{high:g}. Choose another channel name "
                             "in dataset.json (for example 'zscore') and plan again.")
        image = self._typed(image)
        image /= 255.0
        return image


SCHEMES: dict[str, type[ImageNormalization]] = {
    scheme.__name__: scheme for scheme in (CTNormalization, ZScoreNormalization, NoNormalization, RescaleTo01Normalization, RGBTo01Normalization)}

channel_name_to_normalization_mapping: dict[str, type[ImageNormalization]] = {
    "ct": CTNormalization,
    "nonorm": NoNormalization,
    "zscore": ZScoreNormalization,
    "rescale_to_0_1": RescaleTo01Normalization,
    "rgb_to_0_1": RGBTo01Normalization,
}


def get_normalization_scheme(channel_name: str) -> type[ImageNormalization]:
    """The scheme for a channel of dataset.json's `channel_names`, upper or lower case; z-score for unknown names."""
    return channel_name_to_normalization_mapping.get(channel_name.casefold(), ZScoreNormalization)


def scheme_of_channel(channel_name: str) -> str:
    """What plans call it; one that a program added to `channel_name_to_normalization_mapping` by its dotted path."""
    return name_of(get_normalization_scheme(channel_name), SCHEMES)


def may_use_mask(channel_name: str) -> bool:
    """Whether the scheme for such a channel may be restricted to the non-zero mask (`use_mask_for_norm`)."""
    return bool(get_normalization_scheme(channel_name).leaves_pixels_outside_mask_at_zero_if_use_mask_for_norm_is_true)


def scheme_by_name(scheme: str, where: object = "plans") -> type[ImageNormalization] | Callable[[np.ndarray, np.ndarray | None, Mapping[str, float]], None]:
    """The class or function that `scheme` names, see `normalize`; InputError, naming `where`, for an unknown one."""
    return resolve(scheme, "normalization_schemes", where, with_own_files(scheme, SCHEMES, room, ImageNormalization))


def check_schemes(configuration: Mapping, where: object) -> None:
    """InputError for a scheme that `configuration` (of plans) names and nobody knows: found before a case is read, not at the first one."""
    for scheme in configuration.get("normalization_schemes") or ():
        scheme_by_name(scheme, where)


def normalize(image: np.ndarray, scheme: str, use_mask: bool | None, seg: np.ndarray, intensities: Mapping[str, float]) -> None:
    """Normalise `image` (Z, Y, X) float32 in place. With `use_mask`, the voxels with seg >= 0 are the ones that count.

    `scheme`: a name of SCHEMES or of a subclass of ImageNormalization in a file below nnunetv2/preprocessing, or the path of one's own in a
    package that the user trusts: a subclass of ImageNormalization, or a function of (image, inside, intensities) that changes the image in
    place, `inside` the mask or None.

    Raises:
        InputError: `scheme` is neither.
    """
    found = scheme_by_name(scheme)
    if isinstance(found, type) and issubclass(found, ImageNormalization):
        result = found(use_mask_for_norm=bool(use_mask), intensityproperties=intensities).run(image, seg)
        if result is not image:
            image[...] = result
    else:
        found(image, seg >= 0 if use_mask else None, intensities)
