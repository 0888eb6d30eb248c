"""A synthetic upper abdomen in portal-venous contrast, painted structure by structure into a CT volume.

Axes are (z, y, x) everywhere, in mm from the centre of the pancreas: z towards the head, y towards the back, x towards the
patient's left, so an axial slice reads like a radiologist's. Structures are signed distances in mm (negative inside) painted
back to front with soft edges, so whatever is painted last is what a mask may claim.
"""

from collections.abc import Sequence

import numpy as np
from scipy.interpolate import CubicSpline

FAT, WATER, GAS = -102.0, 12.0, -850.0  # HU
Region = tuple[slice, slice, slice]
FAR = 1e3  # mm; the distance reported where nobody needs it


class SmoothNoise:
    """Gaussian random field with unit variance: cubic B-spline over a lattice of normal numbers `step` mm apart.

    Its correlation length is about `step`. Values do not depend on the voxel grid it is read on.
    """

    GAIN = (151 / 315) ** 1.5  # standard deviation of a cubic B-spline sum of unit normals, averaged over position, in 3D

    def __init__(self, rng: np.random.Generator, step: float, extent: float):
        self.step, self.half = step, int(np.ceil(extent / step)) + 2
        self.lattice = rng.standard_normal((2 * self.half + 1,) * 3).astype(np.float32) / self.GAIN

    def _weights(self, positions: np.ndarray) -> tuple[np.ndarray, slice]:
        """B-spline weights (positions, nodes) of the lattice nodes within reach, and which nodes these are."""
        first, last = (int(np.floor(end / self.step)) for end in (positions[0], positions[-1]))
        nodes = np.arange(first - 1, last + 3)
        distance = np.abs(positions[:, None] / self.step - nodes)
        near = 2 / 3 - distance**2 + distance**3 / 2
        weights = np.where(distance < 1, near, np.clip(2 - distance, 0, None) ** 3 / 6)
        return weights.astype(np.float32), slice(first - 1 + self.half, last + 3 + self.half)

    def __call__(self, axes: Sequence[np.ndarray]) -> np.ndarray:
        """Field on the grid spanned by three ascending coordinate vectors (z, y, x) in mm, none of them empty."""
        (wz, sz), (wy, sy), (wx, sx) = (self._weights(axis) for axis in axes)
        along_z = np.tensordot(wz, self.lattice[sz, sy, sx], 1)  # (z, nodes y, nodes x)
        return wy @ along_z @ wx.T


class Canvas:
    """HU volume (z, y, x) that structures are painted into, with the coordinates of its voxels in mm."""

    def __init__(self, shape: Sequence[int], spacing: Sequence[float], centre: Sequence[float] = (0, 0, 0)):
        self.axes = [c + (np.arange(n) - (n - 1) / 2) * s for n, s, c in zip(shape, spacing, centre)]
        self.softness = 0.7 * float(np.mean(spacing))  # mm over which an edge fades: what a voxel averages
        self.hu = np.full(shape, FAT, np.float32)

    @property
    def extent(self) -> float:
        return max(float(np.abs(axis).max()) for axis in self.axes)

    def region(self, low: Sequence[float], high: Sequence[float]) -> Region:
        """Index box of the voxels between two corners in mm; may be empty."""
        return tuple(slice(*np.searchsorted(a, (lo, hi)).tolist()) for a, lo, hi in zip(self.axes, low, high))

    def local_axes(self, region: Region) -> list[np.ndarray]:
        return [axis[s] for axis, s in zip(self.axes, region)]

    def coordinates(self, region: Region) -> list[np.ndarray]:
        """Open grid: z, y, x arrays that broadcast to the region's shape."""
        return list(np.ix_(*self.local_axes(region)))

    def blend(self, region: Region, opacity: np.ndarray, hu: float | np.ndarray) -> None:
        view = self.hu[region]
        view += opacity.astype(np.float32) * (np.float32(hu) - view)

    def paint(self, region: Region, distance: np.ndarray, hu: float | np.ndarray, softness: float | None = None) -> None:
        self.blend(region, np.clip(0.5 - distance / (softness or self.softness), 0, 1), hu)

    def inside(self, centre: np.ndarray, radii: np.ndarray, room: float = 4.0) -> np.ndarray:
        """`centre` moved so far in that an ellipsoid of `radii`, and `room` mm around it, stays in the volume as far as it fits."""
        reach = np.minimum(radii + room, [(axis[-1] - axis[0]) / 2 for axis in self.axes])
        return np.clip(centre, [axis[0] + r for axis, r in zip(self.axes, reach)], [axis[-1] - r for axis, r in zip(self.axes, reach)])

    def set_mean(self, region: Region, opacity: np.ndarray, inside: np.ndarray, hu: float) -> None:
        """Shift what `opacity` covers until the voxels `inside` have the mean `hu`."""
        self.hu[region] += opacity * (hu - self.hu[region][inside].mean()) / opacity[inside].mean()

    def ellipsoid(self, centre: Sequence[float], radii: Sequence[float], margin: float = 8.0) -> tuple[Region, np.ndarray]:
        """First-order signed distance to an ellipsoid, in the box `margin` mm larger than it."""
        centre, radii = np.asarray(centre, float), np.asarray(radii, float)
        region = self.region(centre - radii - margin, centre + radii + margin)
        scaled = [(p - c) / r for p, c, r in zip(self.coordinates(region), centre, radii)]
        level = np.sqrt(sum(s**2 for s in scaled))
        gradient = np.sqrt(sum((s / r) ** 2 for s, r in zip(scaled, radii)))
        scale = np.divide(level, gradient, out=np.full_like(level, radii.min()), where=gradient > 1e-6)  # the centre is 0 / 0
        return region, ((level - 1) * scale).astype(np.float32)

    def tube(self, points: np.ndarray, radii: np.ndarray, margin: float = 8.0) -> tuple[Region, np.ndarray]:
        """Signed distance to the union of balls at `points` (n, 3); FAR more than `margin` mm away from it."""
        reach = radii + margin
        low, high = points - reach[:, None], points + reach[:, None]
        region = self.region(low.min(0), high.max(0))
        distance = np.full([s.stop - s.start for s in region], FAR, np.float32)
        corners = np.array([(axis[0], axis[-1]) for axis in self.axes])
        seen = ((high > corners[:, 0]) & (low < corners[:, 1])).all(1)
        for point, radius, lower, upper in zip(points[seen], radii[seen], low[seen], high[seen]):
            ball = self.region(lower, upper)
            z, y, x = (axis[s] - c for axis, s, c in zip(self.axes, ball, point))
            gap = np.sqrt((z**2)[:, None, None] + (y**2)[:, None] + x**2) - radius
            local = tuple(slice(b.start - s.start, b.stop - s.start) for b, s in zip(ball, region))
            np.minimum(distance[local], gap, out=distance[local], casting="same_kind")
        return region, distance


def curve(controls: np.ndarray, values: Sequence[float], step: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Smooth curve through `controls` (n, 3) and `values` (n,) interpolated along it, sampled about every `step` mm."""
    controls = np.asarray(controls, float)
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(controls, axis=0), axis=1))])
    at = np.linspace(0, length[-1], max(2, int(length[-1] / step) + 1))
    return CubicSpline(length, controls)(at), np.interp(at, length, values)


class Abdomen:
    """One patient: draws a random anatomy from `rng` and paints it into `canvas`; the pancreas comes last.

    After `paint()`, `pancreas` holds (region, signed distance) and `spine`, `spine_radii` the gland's centre line.
    """

    def __init__(self, canvas: Canvas, rng: np.random.Generator):
        self.canvas, self.rng = canvas, rng
        self.fine, self.medium, self.coarse = (SmoothNoise(rng, step, canvas.extent + 10) for step in (3.5, 8, 22))
        self.parenchyma = rng.normal(104, 7)
        self.venous, self.arterial = rng.normal(165, 12), rng.normal(178, 14)

    def thickness(self, along: np.ndarray) -> np.ndarray:
        """Factor on the gland's radii at places `along` its centre line, 0 in the head to 1 in the tail."""
        return np.ones_like(along)

    def duct_radius(self, along: np.ndarray) -> np.ndarray:
        """Of the main duct (mm) at places `along` the centre line."""
        return np.full_like(along, 1.2)

    def near(self, *point: float, spread: float = 2.5) -> np.ndarray:
        return np.asarray(point) + self.rng.normal(0, spread, 3)

    def solid(self, shape: tuple[Region, np.ndarray], hu: float, mottle: float = 3.0, wobble: float = 2.5) -> None:
        """Paint an organ with an irregular outline (`wobble` mm) and a faintly mottled interior (`mottle` HU)."""
        region, distance = shape
        if not distance.size:
            return
        axes = self.canvas.local_axes(region)
        self.canvas.paint(region, distance + wobble * self.coarse(axes), hu + mottle * self.medium(axes))

    def hollow(self, shape: tuple[Region, np.ndarray], wall: float, content: float, gas_above: float | None = None) -> None:
        """Paint a gut: enhancing wall of `wall` mm, `content` HU within, gas in front of y = `gas_above` mm (patient supine)."""
        region, distance = shape
        if not distance.size:
            return
        axes = self.canvas.local_axes(region)
        distance = distance + 1.5 * self.medium(axes)
        self.canvas.paint(region, distance, 88 + 8 * self.fine(axes))
        lumen = distance + wall * (1 + 0.35 * self.fine(axes))
        self.canvas.paint(region, lumen, content + 9 * self.medium(axes))
        if gas_above is not None:
            self.canvas.paint(region, np.maximum(lumen, self.canvas.coordinates(region)[1] - gas_above), GAS)

    def vessel(self, controls: Sequence[Sequence[float]], radii: Sequence[float], hu: float) -> None:
        region, distance = self.canvas.tube(*curve(np.asarray(controls), radii), margin=2 + self.canvas.softness)
        self.canvas.paint(region, distance, hu)

    def paint(self) -> None:
        self._trunk()
        self._solid_organs()
        self._gut()
        self._body_wall()
        self._retroperitoneal_vessels()
        self._lay_out_pancreas()
        self._peripancreatic_vessels()
        self._paint_pancreas()

    def _trunk(self) -> None:
        canvas = self.canvas
        whole = canvas.region((-FAR,) * 3, (FAR,) * 3)
        canvas.hu += 7 * self.coarse(canvas.axes)
        strands = np.clip(self.medium(canvas.axes) - 1.6, 0, None)
        canvas.hu += 45 * strands  # mesenteric strands and small vessels in the fat
        _, y, x = canvas.coordinates(whole)
        canvas.paint(whole, np.hypot(np.abs(x) - 36, y - 72) - 17, 58.0)  # psoas
        canvas.paint(whole, np.hypot(np.abs(x) - 42, y - 98) - 21, 52.0)  # back muscles
        for side in (-1, 1):
            self.solid(canvas.ellipsoid((150, 20, side * 82), (75, 80, 62)), -840, 25)  # lung base
        vertebra = np.hypot((y - 70) / 17, x / 22) * 19 - 19
        canvas.paint(whole, vertebra, 380.0)
        canvas.paint(whole, vertebra + 2.5, 190.0)
        canvas.paint(whole, np.hypot(y - 96, x) - 8, 30.0)  # spinal canal
        for side in (-1, 1):  # crura of the diaphragm
            self.vessel([(-60, 48, side * 13), (0, 42, side * 15), (70, 38, side * 20)], (3, 4.5, 4.5), 62.0)

    def _body_wall(self) -> None:
        """An ellipse all along z; painted after the organs, because it holds them in."""
        canvas = self.canvas
        whole = canvas.region((-FAR,) * 3, (FAR,) * 3)
        _, y, x = canvas.coordinates(whole)
        outline = (np.hypot((y - 12) / 116, x / 166) - 1) * 116
        if outline.max() < -30:  # a crop around the pancreas does not reach it
            return
        canvas.paint(whole, -29 - outline, 55.0)
        canvas.paint(whole, -19 - outline, FAT)
        canvas.paint(whole, -outline, -1000.0)

    def _solid_organs(self) -> None:
        canvas, rng = self.canvas, self.rng
        self.solid(canvas.ellipsoid(self.near(48, -22, -92, spread=4), (78, 72, 58)), rng.normal(112, 8))  # right liver
        self.solid(canvas.ellipsoid(self.near(62, -68, -20, spread=4), (40, 30, 58)), rng.normal(112, 8))  # left liver
        self.solid(canvas.ellipsoid(self.near(4, -24, -62, spread=4), (26, 13, 12)), WATER)  # gall bladder
        self.solid(canvas.ellipsoid(self.near(48, 42, 98, spread=4), (46, 34, 26)), rng.normal(120, 8))  # spleen
        for z, x in ((-22, -60), (-6, 62)):
            centre = self.near(z, 54, x, spread=3)
            self.solid(canvas.ellipsoid(centre, (52, 25, 27)), rng.normal(172, 10), wobble=1.5)
            self.solid(canvas.ellipsoid(centre - (0, 0, np.sign(x) * 8), (36, 13, 16)), rng.normal(128, 10), 14, 3.5)
            self.solid(canvas.ellipsoid(centre - (0, 0, np.sign(x) * 17), (15, 8, 10)), -60)  # sinus fat
        for side in (-1, 1):  # adrenals
            self.vessel([(22, 36, side * 24), (32, 40, side * 33), (36, 50, side * 36)], (2, 2.6, 1.6), 78.0)

    def _gut(self) -> None:
        canvas, rng = self.canvas, self.rng
        stomach, radii = curve([self.near(70, -2, 78), self.near(52, -32, 66), self.near(26, -46, 34), self.near(8, -44, -8),
                                self.near(4, -28, -34)], (30, 26, 19, 15, 9), 3)
        self.hollow(canvas.tube(stomach, radii), 4.5, rng.uniform(10, 55), -52 + rng.normal(0, 5))
        duodenum, radii = curve([self.near(4, -26, -38), self.near(0, -4, -58), self.near(-28, 12, -60), self.near(-48, 18, -36),
                                 self.near(-50, 22, 0), self.near(-30, 16, 28)], (9, 11, 11, 10, 9, 9))
        self.hollow(canvas.tube(duodenum, radii), 2.6, rng.uniform(8, 60), rng.choice([-8, -40]))
        for _ in range(12):  # jejunum, on the left below and in front of the gland
            start = np.array([rng.uniform(-75, 2), rng.uniform(-45, 8), rng.uniform(24, 75)])
            loop = start + np.cumsum(np.vstack([np.zeros(3), rng.normal(0, (7, 9, 15), (4, 3))]), axis=0)
            self.hollow(canvas.tube(*curve(loop, rng.uniform(8, 12, 5), 2)), 3.0, rng.uniform(5, 70))
        colon, radii = curve([self.near(-40, -30, -100), self.near(-34, -58, -55), self.near(-40, -56, 0), self.near(-14, -50, 50),
                              self.near(20, -22, 112)], rng.uniform(15, 20, 5), 3)
        self.hollow(canvas.tube(colon, radii), 2.4, rng.uniform(-10, 40), -64 + rng.normal(0, 6))
        if canvas.extent > 120:  # a whole abdomen also has small bowel further down
            for _ in range(40):
                start = np.array([rng.uniform(-200, -75), rng.uniform(-70, 20), rng.uniform(-100, 100)])
                loop = start + np.cumsum(np.vstack([np.zeros(3), rng.normal(0, (8, 10, 16), (4, 3))]), axis=0)
                self.hollow(canvas.tube(*curve(loop, rng.uniform(9, 14, 5), 2)), 3.0, rng.uniform(5, 70))

    def _retroperitoneal_vessels(self) -> None:
        self.vessel([(-250, 40, 6), (-60, 38, 6), (30, 36, 5), (250, 44, 2)], (8, 10, 11, 12), self.arterial)  # aorta
        self.vessel([(-250, 40, -20), (-60, 36, -20), (20, 30, -22), (110, 10, -30)], (10, 11, 12, 12), self.venous - 30)  # cava
        self.vessel([(-8, 34, -18), (-6, 27, 4), (-8, 36, 30), (-8, 50, 52)], (5, 3.5, 4.5, 4), self.venous)  # left renal vein

    def _lay_out_pancreas(self) -> None:
        """Centre line and radii from head to tail, the uncinate process, and the gland's lobulated signed distance."""
        canvas, rng = self.canvas, self.rng
        bend = rng.normal(0, 4, 2)
        controls = [self.near(-24, 8, -42), self.near(-8, 2, -36), self.near(2, -11, -17), self.near(9 + bend[0], -12 + bend[1], 5),
                    self.near(18 + bend[0], -1 + bend[1], 28), self.near(27, 15, 46)]
        size = rng.normal(1, 0.08)
        self.spine, self.spine_radii = curve(controls, size * np.array([12, 13.5, 8, 9, 8.5, 5.5]))
        self.spine_radii = self.spine_radii * self.thickness(np.linspace(0, 1, len(self.spine)))
        uncinate, uncinate_radii = curve([self.spine[2], self.near(-27, 12, -30, spread=1.5), self.near(-28, 15, -19, spread=1.5)],
                                         (10, 8, 5))
        points = np.vstack([self.spine, uncinate])
        region, distance = canvas.tube(points, np.concatenate([self.spine_radii, uncinate_radii]))
        axes = canvas.local_axes(region)
        self.lobules = self.medium(axes)
        self.pancreas = region, distance + 1.5 * self.lobules + 0.9 * self.fine(axes)

    def _peripancreatic_vessels(self) -> None:
        canvas, rng = self.canvas, self.rng
        region, distance = self.pancreas
        halo = distance - 3.5 * (1 + 0.6 * self.coarse(canvas.local_axes(region)))  # in places the gut touches the gland
        canvas.paint(region, halo, FAT + 12 + 10 * self.lobules)
        neck = int(0.38 * len(self.spine))
        behind = self.spine[neck:] + np.array([0, 1, 0]) * (self.spine_radii[neck:, None] + 3)
        confluence = behind[0]
        splenic = np.vstack([behind[::12], self.near(36, 24, 78)])
        self.vessel(splenic, np.full(len(splenic), 3.6), self.venous)
        self.vessel([(-95, -2, -10), (-45, 2, -12), confluence], (5, 5.5, 6), self.venous)  # superior mesenteric vein
        self.vessel([confluence, self.near(24, 2, -34), self.near(52, -6, -58)], (6.5, 6.5, 6), self.venous)  # portal vein
        self.vessel([(8, 28, 4), (-8, 14, 2), (-45, 10, 2), (-100, 4, 4)], (4.5, 3.8, 3.5, 3), self.arterial)  # SMA
        above = behind[::9] + np.array([7, -2, 0]) + rng.normal(0, 2.5, behind[::9].shape)
        self.vessel(np.vstack([[(22, 28, 4)], above]), np.full(len(above) + 1, 2.2), self.arterial)  # splenic artery
        for _ in range(14):  # mesenteric branches, end on as dots in the fat
            start = np.array([rng.uniform(-60, 0), rng.uniform(-30, 8), rng.uniform(-25, 45)])
            bends = [start, start + rng.normal(0, 9, 3), start + rng.normal(0, (20, 9, 14))]
            self.vessel(bends, (1.6, 1.3, 1.0), self.venous - 20)

    def _paint_pancreas(self) -> None:
        canvas = self.canvas
        region, distance = self.pancreas
        axes = canvas.local_axes(region)
        clefts = np.clip(self.fine(axes) + 0.6 * self.lobules - 1.0, 0, None)  # fat between the lobules
        canvas.paint(region, distance, self.parenchyma + 7 * self.fine(axes) - 95 * clefts)
        first = int(0.12 * len(self.spine))
        duct, along = self.spine[first:-4:8], np.linspace(0, 1, len(self.spine))[first:-4:8]
        self.vessel(duct, self.duct_radius(along), 35.0)
        self.vessel([(38, -4, -50), (14, 6, -46), self.spine[2]], (3.2, 3.2, 2.5), WATER)  # common bile duct
