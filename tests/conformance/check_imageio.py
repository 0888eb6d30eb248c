"""Rows: readers. The same files read and written by each side's classes; written files are compared by SimpleITK, or as pixels."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import tifffile
from skimage.io import imread, imsave

from nnunetv2.imageio.reader_writer_registry import reader_writer_by_name, reader_writer_name
from tests.conformance.bench import Bench, Row, equal, within

ORIENTATIONS = ("LPS", "RAS", "PIR", "ASL")


def volumes(folder: Path) -> Iterator[tuple[str, Path]]:
    """SYNTHETIC volumes of consecutive numbers in several orientations, one of them oblique."""
    for letters in ORIENTATIONS:
        image = sitk.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(3, 4, 5))
        image.SetSpacing((1.5, 2.0, 2.5))
        image.SetOrigin((10.0, -20.0, 30.0))
        image = sitk.DICOMOrient(image, letters)
        if letters == "PIR":
            turn = sitk.Euler3DTransform((0, 0, 0), 0.1, 0.05, 0.2).GetMatrix()
            image.SetDirection((np.reshape(turn, (3, 3)) @ np.reshape(image.GetDirection(), (3, 3))).ravel().tolist())
        path = folder / f"{letters}_0000.nii.gz"
        sitk.WriteImage(image, str(path))
        yield f"NIfTI, {letters}{', oblique' if letters == 'PIR' else ''}", path


def grid(path: Path) -> list[float]:
    image = sitk.ReadImage(str(path))
    return [*image.GetSpacing(), *image.GetOrigin(), *image.GetDirection()]


def check_volumes(bench: Bench) -> Iterator[Row]:
    for what, path in volumes(bench.folder):
        for reader in ("SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient"):
            ours_file, theirs_file = (bench.folder / f"{reader}_{side}.nii.gz" for side in ("ours", "theirs"))
            theirs = bench.upstream.call("upstream_imageio:there_and_back", reader=reader, images=[str(path)], output=str(theirs_file))
            made = reader_writer_by_name(reader)()
            data, properties = made.read_images([path])
            yield within(f"{reader}, {what}: voxels", data, theirs["data"], 0.0)
            yield within(f"{reader}, {what}: spacing", np.array(properties["spacing"], float), np.array(theirs["spacing"]), 1e-6)
            made.write_seg(data[0].astype(np.uint8), ours_file, properties)
            yield equal(f"{reader}, {what}: written voxels", *(sitk.GetArrayFromImage(sitk.ReadImage(str(f))) for f in (ours_file, theirs_file)))
            yield within(f"{reader}, {what}: grid of the written file", np.array(grid(ours_file)), np.array(grid(theirs_file)), 1e-4)


def check_pictures(bench: Bench) -> Iterator[Row]:
    rng = np.random.default_rng(0)
    for name, shape in (("grey", (6, 5)), ("rgb", (6, 5, 3)), ("rgba", (6, 5, 4))):
        for ending in (".png", ".tif"):
            path = bench.folder / f"{name}_0000{ending}"
            imsave(path, rng.integers(0, 255, shape).astype(np.uint8), check_contrast=False)
            yield from _pixels(bench, "NaturalImage2DIO", path, f"{name} {ending}")
    path = bench.folder / "volume_0000.tif"
    tifffile.imwrite(path, rng.integers(0, 200, (7, 8, 9)).astype(np.uint8))
    yield from _pixels(bench, "Tiff3DIO", path, "without a spacing")
    (bench.folder / "volume.json").write_text('{"spacing": [3, 2, 1.5]}')
    other = path.with_name("volume_0000.tiff")
    other.write_bytes(path.read_bytes())
    yield from _pixels(bench, "Tiff3DIO", other, "with a spacing")
    for file_ending, example in ((".tif", path), (".tif", bench.folder / "grey_0000.tif"), (".tiff", other), (".png", None), (".nii.gz", None), (".nii", None)):
        dataset_json = {"file_ending": file_ending}
        example = None if example is None else str(example)
        yield equal(f"reader of {file_ending}{'' if example is None else ', ' + Path(example).name}", reader_writer_name(dataset_json, example),
                    bench.upstream.call("upstream_imageio:chosen_reader", dataset_json=dataset_json, example=example))


def _pixels(bench: Bench, reader: str, path: Path, what: str) -> Iterator[Row]:
    ours_file, theirs_file = (bench.folder / f"{path.stem}_{side}{path.suffix}" for side in ("ours", "theirs"))
    theirs = bench.upstream.call("upstream_imageio:there_and_back", reader=reader, images=[str(path)], output=str(theirs_file))
    made = reader_writer_by_name(reader)()
    data, properties = made.read_images([path])
    yield within(f"{reader}, {what}: voxels", data, theirs["data"], 0.0)
    yield equal(f"{reader}, {what}: spacing", [float(value) for value in properties["spacing"]], theirs["spacing"])
    made.write_seg(data[0].astype(np.uint8), ours_file, properties)
    yield equal(f"{reader}, {what}: written pixels", *(imread(file) for file in (ours_file, theirs_file)))


CHECKS = [check_volumes, check_pictures]
