"""Images that come as arrays or as SimpleITK images rather than as files."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnunetv2.imageio.geometry import same_grid
from nnunetv2.imageio.simpleitk_reader_writer import FLAT_SPACING_FACTOR, plain_geometry
from nnunetv2.utilities.errors import InputError


def check_image(image: Any, properties: Any, n_channels: int, where: str = "the image") -> None:
    """InputError that lists all that keeps `image` from being segmented: (C, Z, Y, X) of finite numbers, spacing of 3 finite mm above 0.

    where: what the message calls it. n_channels: how many the network takes.
    """
    problems = []
    if not isinstance(image, np.ndarray) or image.dtype.kind not in "biuf":
        what = f"an array of {image.dtype}" if isinstance(image, np.ndarray) else f"a {type(image).__name__}"
        problems.append(f"it is {what}; give a numpy array of real numbers")
    elif image.ndim != 4:
        problems.append(f"its shape {image.shape} has {image.ndim} axes; give (channel, z, y, x), a 2D image as (channel, 1, y, x)")
    elif 0 in image.shape:
        problems.append(f"its shape {image.shape} holds no voxel")
    else:
        if len(image) != n_channels:
            problems.append(f"it has {len(image)} channel(s); the network takes {n_channels}")
        if image.dtype.kind == "f" and not (np.isfinite(image.min()) and np.isfinite(image.max())):
            problems.append(f"{int(np.count_nonzero(~np.isfinite(image)))} of its voxels are NaN or infinite; repair or mask them first")
    problems += _spacing_problems(properties)
    if problems:
        raise InputError(f"{where} cannot be used: {'; '.join(problems)}.")


def single_slice(image: np.ndarray, patch_size: Sequence[int]) -> str | None:
    """What to say of one slice, (C, Z, Y, X) with an axis of one voxel, where the network sees volumes; None of others."""
    if len(patch_size) == 3 and min(patch_size) > 1 and min(image.shape[1:]) == 1:
        return f"one slice, {' x '.join(map(str, image.shape[1:]))} voxels, padded to a volume as the network needs one; what is predicted is not to be trusted. Give the whole series."
    return None


def _spacing_problems(properties: Any) -> list[str]:
    if not isinstance(properties, Mapping) or "spacing" not in properties:
        return ["its properties have no 'spacing'; give {'spacing': (z, y, x) in mm}"]
    spacing = properties["spacing"]
    try:
        values = np.asarray(spacing)
    except ValueError:  # lists of different lengths
        values = np.zeros(0)
    if values.shape != (3,) or values.dtype.kind not in "iuf":
        return [f"its spacing is {spacing!r}; give three numbers, (z, y, x) in mm"]
    if not (np.isfinite(values).all() and (values > 0).all()):
        return [f"its spacing is {tuple(values.tolist())}; each must be a finite number of mm above 0"]
    return []


def from_sitk(images: sitk.Image | Sequence[sitk.Image]) -> tuple[np.ndarray, dict[str, Any]]:
    """One image a channel -> array (C, Z, Y, X) float32 and properties, as the reader gives them for files.

    A 2D image counts as one slice; several components are channels. InputError where the images' grids differ.
    """
    images = [images] if isinstance(images, sitk.Image) else list(images)
    if not images:
        raise InputError("There is no image; give one SimpleITK image for each channel.")
    if unfit := [f"image {i}: {problem}" for i, image in enumerate(images) if (problem := _voxels_in_words(image))]:
        raise InputError(f"The voxels of an image are real numbers, but {'; '.join(unfit)}.")
    geometries = [{"spacing": image.GetSpacing(), "origin": image.GetOrigin(), "direction": image.GetDirection()} for image in images]
    wrong = [f"image {i}: {image.GetDimension()} dimensions" for i, image in enumerate(images) if image.GetDimension() not in (2, 3)]
    shape = images[0].GetSize()[::-1]
    wrong += [f"image {i}: another voxel grid than the first, size {image.GetSize()}" for i, (image, geometry) in enumerate(zip(images, geometries))
              if image.GetDimension() in (2, 3) and (image.GetSize() != images[0].GetSize() or not same_grid(geometries[0], geometry, shape))]
    if wrong:
        raise InputError(f"The images of one case have two or three dimensions and share a voxel grid, but {'; '.join(wrong)}.")
    channels = []
    for image in images:
        array = sitk.GetArrayFromImage(image)
        array = np.moveaxis(array, -1, 0) if image.GetNumberOfComponentsPerPixel() > 1 else array[None]
        channels.append(array[:, None] if image.GetDimension() == 2 else array)
    spacing = list(geometries[0]["spacing"][::-1])
    if len(spacing) == 2:
        spacing.insert(0, max(spacing) * FLAT_SPACING_FACTOR)
    return np.concatenate(channels, dtype=np.float32, casting="unsafe"), {"sitk_stuff": geometries[0], "spacing": spacing}


def _voxels_in_words(image: Any) -> str:
    """What is wrong with the kind of its voxels; "" of an image that can be read."""
    if not isinstance(image, sitk.Image):
        return f"a {type(image).__name__}; give a SimpleITK image"
    if "label" in (kind := image.GetPixelIDTypeAsString()):  # GetArrayFromImage ends the whole process at these
        return f"a {kind}; turn it into an image of labels first (sitk.LabelMapToLabel)"
    return f"voxels of {kind}" if "complex" in kind else ""


def to_sitk(mask: np.ndarray, properties: Mapping[str, Any]) -> sitk.Image:
    """A label map (Z, Y, X) on the grid of its image. Without `sitk_stuff` in the properties: spacing alone, origin 0, axes as they are."""
    geometry = properties["sitk_stuff"] if "sitk_stuff" in properties else plain_geometry(properties["spacing"])
    image = sitk.GetImageFromArray(mask[0] if len(geometry["spacing"]) == 2 else mask)
    image.SetSpacing(geometry["spacing"])
    image.SetOrigin(geometry["origin"])
    image.SetDirection(geometry["direction"])
    return image
