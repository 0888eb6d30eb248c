"""A DICOM series that is sent to the server as a zip."""

import io
import stat
import zipfile

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("pydicom")

from nnunetv2.inference.serving.app import segment_files  # noqa: E402
from nnunetv2.utilities import zip_guard  # noqa: E402
from tests.imageio.made_dicom import hu, save, slices  # noqa: E402
from tests.inference.test_serving import serving  # noqa: E402
from tests.inference.tiny_model import smooth_ct  # noqa: E402


def zipped(members: dict) -> bytes:
    """members: name or ZipInfo -> content."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return made.getvalue()


def series(folder, values, **options) -> dict[str, bytes]:
    return {f"DOE/{path.name}": path.read_bytes() for path in save(slices(values, **options), folder)}


def job_of(predictor, content, tmp_path, **options):
    with serving(tmp_path / "jobs", segment_files(predictor, **options), max_bytes=2**22) as server:
        job = server.finished(server.submit(content, name="scan.zip")[1]["id"])
        return job, server.call("GET", f"/jobs/{job['id']}/mask"), server.call("GET", f"/jobs/{job['id']}/image")


@pytest.mark.slow
def test_a_series_in_a_zip_gets_the_mask_of_its_volume(predictor, tmp_path):
    values = smooth_ct()
    expected = predictor.predict_single_npy_array(values[None].astype(np.float32), {"spacing": [2.5, 0.9, 0.8]})
    job, mask, image = job_of(predictor, zipped(series(tmp_path / "dicom", values) | {"__MACOSX/x": b"litter"}), tmp_path)
    assert job["status"] == "done", job["error"]
    for name, (status, content), array in (("mask", mask, expected), ("image", image, values)):
        (tmp_path / f"{name}.nii.gz").write_bytes(content)
        assert status == 200 and np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"{name}.nii.gz"))), array)
    assert sorted(path.name for path in (tmp_path / "jobs" / job["id"]).iterdir()) == ["image.zip", "job.json", "mask.nii.gz", "series.nii.gz"]


def link() -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo("link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.slow
@pytest.mark.parametrize(("content", "named"), [
    (b"PK no zip", "not a whole zip"), (zipped({}), "holds 0"), (zipped({"a.txt": b"x" * 200}), "1 x no DICOM file"), (zipped({link(): b"/etc/passwd"}), "link: link")])
def test_a_zip_without_a_series_fails_with_a_reason(predictor, tmp_path, content, named):
    job = job_of(predictor, content, tmp_path)[0]
    assert job["status"] == "failed" and named in job["error"] and str(tmp_path) not in job["error"]


@pytest.mark.slow
def test_names_that_lead_out_are_of_no_concern(predictor, tmp_path):
    members = {f"../../{name}": content for name, content in series(tmp_path / "dicom", smooth_ct()).items()}
    assert job_of(predictor, zipped(members), tmp_path)[0]["status"] == "done"
    assert not list(tmp_path.rglob("DOE"))


@pytest.mark.slow
def test_two_series_or_a_broken_one_are_named_without_paths_of_the_server(predictor, tmp_path):
    one, other = series(tmp_path / "a", hu()), series(tmp_path / "b", hu(), series="1.2.9")
    two = job_of(predictor, zipped(one | {f"b/{name}": content for name, content in other.items()}), tmp_path)[0]
    assert "this one holds 2" in two["error"] and "series 1.2.9, 6 files" in two["error"]
    gap = job_of(predictor, zipped(dict([*one.items()][:2] + [*one.items()][3:])), tmp_path)[0]
    assert "1 slice(s) are missing" in gap["error"] and str(tmp_path) not in gap["error"]


def test_a_bomb_is_not_unpacked(predictor, tmp_path, monkeypatch):
    monkeypatch.setattr(zip_guard, "RATIO_FROM", 2**16)
    job = job_of(predictor, zipped({"a": bytes(2**22)}), tmp_path)[0]
    assert "would grow from" in job["error"] and str(2**22) in job["error"]


def test_a_series_of_too_many_voxels_is_not_read(predictor, tmp_path):
    job = job_of(predictor, zipped(series(tmp_path / "dicom", hu())), tmp_path, max_voxels=335)[0]
    assert job["error"] == "The image has 336 voxels; this server takes up to 335."
