"""How a phantom is scanned: noise, kernel, slice thickness and contrast phase. `other` is what a model meets in another hospital.

    python data_prep/make_phantom.py OUT --preset demo --cues --scanner other
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter


@dataclass(frozen=True)
class Scanner:
    noise: float  # factor on the preset's noise
    blur: tuple[float, float, float]  # voxels (z, y, x), standard deviation of kernel and slice profile
    gland: float  # HU that the pancreas is brighter
    veins: float
    arteries: float

    def blurred(self, hu: np.ndarray) -> np.ndarray:
        """(z, y, x) HU as this scanner resolves it."""
        return gaussian_filter(hu, self.blur)


SCANNERS = {
    "standard": Scanner(noise=1.0, blur=(0.45, 0.45, 0.45), gland=0, veins=0, arteries=0),
    # Noisier, softer, thicker, and earlier after the contrast was given.
    "other": Scanner(noise=1.7, blur=(0.8, 0.65, 0.65), gland=10, veins=-60, arteries=90),
}
