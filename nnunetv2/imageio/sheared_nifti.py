"""NIfTI images whose axes are not at right angles (gantry tilt, output of a registration).

SimpleITK represents orthonormal directions only and refuses to read such a file. Here it gets the nearest orthonormal
direction, and the header's affine is kept beside it: grids are compared by it, and a mask written later carries it.
"""

import numpy as np

from nnunetv2.imageio.nifti_file import NiftiHeader

RAS_TO_LPS = np.array([[-1.0], [-1.0], [1.0]])  # SimpleITK's world has x and y the other way round


def sheared_geometry(header: NiftiHeader) -> dict[str, tuple]:
    """spacing, origin and the direction nearest to the image's own (polar decomposition), x first; `affine`: 12 numbers, LPS."""
    affine = np.reshape(header.forms["sform"], (3, 4)) * RAS_TO_LPS
    u, _, vt = np.linalg.svd(affine[:, :3] / header.spacing)
    return {"spacing": header.spacing, "origin": tuple(affine[:, 3].tolist()), "direction": tuple((u @ vt).ravel().tolist()),
            "affine": tuple(affine.ravel().tolist())}
