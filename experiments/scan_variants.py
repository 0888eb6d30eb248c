"""The same scan in other files: axes turned, resampled, cropped, intensities changed; and masks of such files brought back to the scan's grid."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from nnunetv2.imageio.image_arrays import to_sitk
from nnunetv2.imageio.reorientation import Reorientation, affine_of_geometry, geometry_of_affine
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, read_volume
from nnunetv2.utilities.files import atomic_write

SPACINGS_MM = (1.0, 3.0, 5.0)
CROPPED_SHARE = 0.15  # of the field of view, off one side
OFFSETS_HU = (-50, -20, 20, 50)
NOISE_HU = (20, 50)  # standard deviations
UNSEEN = 255  # of voxels that a variant does not cover; masks hold few labels
AS_IS = "as it is"


@dataclass(frozen=True)
class Scan:
    """array (Z, Y, X) float32; affine (4, 4) from voxel indices (x, y, z) to world mm, RAS."""

    array: np.ndarray
    affine: np.ndarray

    @classmethod
    def read(cls, path: Path) -> "Scan":
        array, properties = read_volume(path)
        return cls(array, affine_of_geometry(properties["sitk_stuff"]))

    def image(self, array: np.ndarray | None = None) -> sitk.Image:
        """This scan, or another array on its grid, for SimpleITK."""
        return to_sitk(self.array if array is None else array, {"sitk_stuff": geometry_of_affine(self.affine)})

    def write(self, path: Path) -> None:
        """As whole numbers of 16 bits, which CTs are."""
        with atomic_write(path) as temporary:
            sitk.WriteImage(
                self.image(np.round(self.array).clip(-32768, 32767).astype(np.int16)),
                str(temporary),
                useCompression=True,
            )

    @property
    def spacing(self) -> np.ndarray:
        """(z, y, x) mm."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)[::-1]


@dataclass(frozen=True)
class Variant:
    group: str
    name: str
    scan: Scan

    @property
    def case(self) -> str:
        """A name that serves for a file."""
        return f"{self.group}-{self.name}".replace(" ", "_").replace("+", "p")


def turned(scan: Scan) -> Iterator[Variant]:
    """All 48 ways to store the axes, the scan's own first."""
    for axes, flipped in product(permutations(range(3)), product((False, True), repeat=3)):
        turn = Reorientation(axes, flipped)
        affine = turn.affine_of_turned(scan.affine, scan.array.shape)
        letters = Reorientation.of_affine(affine).letters
        yield Variant("axes", letters, Scan(np.ascontiguousarray(turn.apply(scan.array)), affine))


def resampled(scan: Scan) -> Iterator[Variant]:
    """Cubes of each of SPACINGS_MM, linear; blurred before where they are larger than the scan's voxels, so that nothing aliases."""
    for spacing in SPACINGS_MM:
        sigma = [0.35 * spacing / own if spacing > own else 0.0 for own in scan.spacing]
        blurred = scan.image(ndimage.gaussian_filter(scan.array, sigma))
        size = [max(1, round(n * own / spacing)) for n, own in zip(blurred.GetSize(), blurred.GetSpacing())]
        grid = sitk.Image(size, sitk.sitkFloat32)
        grid.SetDirection(blurred.GetDirection())
        grid.SetSpacing([spacing] * 3)
        shift = [(spacing - own) / 2 for own in blurred.GetSpacing()]  # both grids begin at the same corner
        direction = np.reshape(blurred.GetDirection(), (3, 3))
        grid.SetOrigin((np.asarray(blurred.GetOrigin()) + direction @ shift).tolist())
        edge = sitk.ZeroFluxNeumannPad(
            blurred, [1] * 3, [1] * 3
        )  # half a voxel beyond the outer centres is the scan's too
        array = sitk.GetArrayFromImage(
            sitk.Resample(edge, grid, sitk.Transform(), sitk.sitkLinear, float(scan.array.min()))
        )
        stuff = {"spacing": grid.GetSpacing(), "origin": grid.GetOrigin(), "direction": grid.GetDirection()}
        yield Variant("voxel size", f"{spacing:g} mm", Scan(array, affine_of_geometry(stuff)))


def cropped(scan: Scan) -> Iterator[Variant]:
    """CROPPED_SHARE of the field of view off one side at a time."""
    for axis, name in enumerate("zyx"):
        n = scan.array.shape[axis]
        cut = max(1, round(CROPPED_SHARE * n))
        for side, kept in (("low", slice(cut, n)), ("high", slice(0, n - cut))):
            box = tuple(kept if a == axis else slice(None) for a in range(3))
            affine = scan.affine.copy()
            affine[:3, 3] += scan.affine[:3, 2 - axis] * kept.start
            yield Variant("field of view", f"{name} {side}", Scan(scan.array[box], affine))


def changed_intensities(scan: Scan, seed: int = 0) -> Iterator[Variant]:
    """A constant added, or white noise."""
    for offset in OFFSETS_HU:
        yield Variant("intensity", f"{offset:+d} HU", Scan(scan.array + offset, scan.affine))
    for deviation in NOISE_HU:
        noise = np.random.default_rng(seed).normal(0, deviation, scan.array.shape)
        yield Variant("intensity", f"noise {deviation} HU", Scan((scan.array + noise).astype(np.float32), scan.affine))


def variants_of(scan: Scan, groups: tuple[str, ...]) -> Iterator[Variant]:
    """The scan as it is, and its variants of `groups`."""
    yield Variant("scan", AS_IS, scan)
    for group, make in {
        "axes": turned,
        "voxel size": resampled,
        "field of view": cropped,
        "intensity": changed_intensities,
    }.items():
        if group in groups:
            yield from make(scan)


def on_grid_of(mask: Path, scan: Scan) -> np.ndarray:
    """A mask's labels at the centres of the scan's voxels, (Z, Y, X) uint8; UNSEEN where the mask's grid does not reach."""
    seg, properties = SimpleITKIO().read_seg(mask)
    there = to_sitk(seg[0].astype(np.uint8), properties)
    return sitk.GetArrayFromImage(
        sitk.Resample(there, scan.image(), sitk.Transform(), sitk.sitkNearestNeighbor, UNSEEN)
    )
