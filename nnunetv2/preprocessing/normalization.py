"""Intensity normalisation. The names in SCHEMES are the ones that plans files hold.

Each function changes a float32 image (Z, Y, X) in place. `inside` is the mask (Z, Y, X) of the voxels that count, or None
for all; `intensities` are the fingerprint's statistics of the channel over the foreground of the training cases.
"""

from collections.abc import Callable, Mapping

import numpy as np

from nnunetv2.utilities.trusted_names import resolve

SMALLEST_SD = 1e-8  # a constant image is only centred


def _ct(image: np.ndarray, inside: np.ndarray | None, intensities: Mapping[str, float]) -> None:
    """Clip to the 0.5 and 99.5 percentiles of the foreground of all training cases, then standardise with its mean and SD."""
    np.clip(image, intensities["percentile_00_5"], intensities["percentile_99_5"], out=image)
    image -= intensities["mean"]
    image /= max(intensities["std"], SMALLEST_SD)


def _z_score(image: np.ndarray, inside: np.ndarray | None, intensities: Mapping[str, float]) -> None:
    """Standardise with the image's own mean and SD. With a mask: over its voxels, and the others keep their zero."""
    voxels = image if inside is None else image[inside]
    if voxels.size == 0:
        return
    mean, sd = voxels.mean(), voxels.std()
    if inside is None:
        image -= mean
        image /= max(sd, SMALLEST_SD)
    else:
        image[inside] = (voxels - mean) / max(sd, SMALLEST_SD)


def _unchanged(image: np.ndarray, inside: np.ndarray | None, intensities: Mapping[str, float]) -> None:
    pass


def _rescale_to_01(image: np.ndarray, inside: np.ndarray | None, intensities: Mapping[str, float]) -> None:
    """Minimum to 0, maximum to 1. A constant image becomes 0."""
    image -= image.min()
    image /= max(image.max(), SMALLEST_SD)


def _rgb_to_01(image: np.ndarray, inside: np.ndarray | None, intensities: Mapping[str, float]) -> None:
    """0..255 to 0..1."""
    low, high = image.min(), image.max()
    if low < 0 or high > 255:
        raise ValueError(f"RGBTo01Normalization expects values in 0..255, found {low:g}..{high:g}. Choose another channel name "
                         "in dataset.json (for example 'zscore') and plan again.")
    image /= 255.0


SCHEMES: dict[str, Callable[[np.ndarray, np.ndarray | None, Mapping[str, float]], None]] = {
    "CTNormalization": _ct,
    "ZScoreNormalization": _z_score,
    "NoNormalization": _unchanged,
    "RescaleTo01Normalization": _rescale_to_01,
    "RGBTo01Normalization": _rgb_to_01,
}
# Only these may be restricted to the non-zero mask (`use_mask_for_norm`): they leave the voxels outside of it at zero.
MASKABLE_SCHEMES = frozenset({"ZScoreNormalization"})

_SCHEME_OF_CHANNEL = {
    "ct": "CTNormalization",
    "nonorm": "NoNormalization",
    "zscore": "ZScoreNormalization",
    "rescale_to_0_1": "RescaleTo01Normalization",
    "rgb_to_0_1": "RGBTo01Normalization",
}


def scheme_of_channel(channel_name: str) -> str:
    """Name of the scheme for a channel of dataset.json's `channel_names`, upper or lower case; z-score for unknown names."""
    return _SCHEME_OF_CHANNEL.get(channel_name.casefold(), "ZScoreNormalization")


def scheme_by_name(scheme: str, where: object = "plans") -> Callable[[np.ndarray, np.ndarray | None, Mapping[str, float]], None]:
    """The function that `scheme` names, see `normalize`; InputError, naming `where`, for an unknown one."""
    return resolve(scheme, "normalization_schemes", where, SCHEMES)


def check_schemes(configuration: Mapping, where: object) -> None:
    """InputError for a scheme that `configuration` (of plans) names and nobody knows: found before a case is read, not at the first one."""
    for scheme in configuration.get("normalization_schemes") or ():
        scheme_by_name(scheme, where)


def normalize(image: np.ndarray, scheme: str, use_mask: bool | None, seg: np.ndarray, intensities: Mapping[str, float]) -> None:
    """Normalise `image` (Z, Y, X) float32 in place. With `use_mask`, the voxels with seg >= 0 are the ones that count.

    `scheme`: a name of SCHEMES, or the path of a function with the same arguments in a package that the user trusts.

    Raises:
        InputError: `scheme` is neither.
    """
    function = scheme_by_name(scheme)
    inside = seg >= 0 if use_mask and scheme in MASKABLE_SCHEMES else None
    function(image, inside, intensities)
