"""Whether an image's intensities are those that a model was trained on: a network answers to anything, and sounds sure.

Hounsfield units are the one scale that is the same for every scanner, so only channels that the plans normalise as CT are
compared. Their images are judged by what no HU image of a body does: to span less than the organ's own spread, to lie above
the organ's brightest voxels for the most part (1024 added), or to have next to nothing among its values (other units).
"""

from collections.abc import Mapping, Sequence

import numpy as np

CT_SCHEME = "CTNormalization"
SAMPLES = 100_000  # voxels looked at, evenly spread
MAX_SHARE_ABOVE = 0.3  # bone and contrast are less of any body
MIN_SHARE_AMONG = 0.005  # soft tissue is more of any picture of a body
MIN_SPAN_SDS = 1.0  # percentile range over the organ's SD: air, fat and tissue differ by far more


def constant_image(image: np.ndarray) -> str | None:
    """What to say of (C, Z, Y, X) every channel of which holds one value only; None of others."""
    if not all(channel.min() == channel.max() for channel in image):
        return None
    values = ", ".join(f"{channel.flat[0]:g}" for channel in image)
    return f"constant, every voxel is {values}; there is no picture in it"


def intensity_warnings(image: np.ndarray, schemes: Sequence[str], intensities: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What is odd about the intensities of (C, Z, Y, X), in words with numbers; [] when nothing is.

    schemes: `normalization_schemes` of the configuration, one a channel; intensities: the plans'
    `foreground_intensity_properties_per_channel`. Of an image without a picture only that is said; else channels that are not CT are passed over.
    """
    if problem := constant_image(image):
        return [f"{problem}, and what is predicted means nothing. Export it again."]
    found = []
    for i, (channel, scheme) in enumerate(zip(image, schemes)):
        if scheme != CT_SCHEME:
            continue
        what = _oddity(channel.reshape(-1)[::max(1, channel.size // SAMPLES)], intensities[str(i)])
        if what is not None:
            low, high = (intensities[str(i)][key] for key in ("percentile_00_5", "percentile_99_5"))
            found.append(f"channel {i}: {what}, while the training data's foreground lies in {low:.0f} to {high:.0f} HU. "
                         "Is this a CT in Hounsfield units? The result is not to be trusted if not.")
    return found


def _oddity(values: np.ndarray, foreground: Mapping[str, float]) -> str | None:
    lowest, highest = np.percentile(values, (0.5, 99.5))
    low, high = foreground["percentile_00_5"], foreground["percentile_99_5"]
    if highest - lowest < MIN_SPAN_SDS * foreground["std"]:
        return f"intensities span {highest - lowest:.3g} ({lowest:.3g} to {highest:.3g})"
    if (share := float(np.mean(values > high))) > MAX_SHARE_ABOVE:
        return f"{share:.0%} of the voxels lie above {high:.0f} (range {lowest:.3g} to {highest:.3g})"
    if (share := float(np.mean((values >= low) & (values <= high)))) < MIN_SHARE_AMONG:
        return f"{share:.1%} of the voxels lie between {low:.0f} and {high:.0f} (range {lowest:.3g} to {highest:.3g})"
    return None
