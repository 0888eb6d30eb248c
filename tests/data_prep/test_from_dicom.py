"""The script: one image a series, a table of what came from where, resumption, and one message for all that is wrong."""

import shutil
import sys

import numpy as np
import pytest
import SimpleITK as sitk

from data_prep.from_dicom import main
from nnunetv2.imageio import dicom_conversion
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.csv_files import read_csv
from tests.imageio.made_dicom import PATIENT, hu, save, slices

pytest.importorskip("pydicom")


def convert(source, out, *flags, capsys=None):
    """(exit status, what it printed)."""
    try:
        main(["--source", str(source), "--out", str(out), "-np", "1", *flags])
        status = 0
    except SystemExit as ended:
        status = ended.code
    return status, "" if capsys is None else capsys.readouterr().out


def rows_of(out):
    return {row["case"]: row for row in read_csv(out / "series.csv").rows}


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "cd" / PATIENT
    save(slices(hu(), SeriesDescription="arterial"), folder / "1", order=[4, 2, 0, 5, 3, 1])
    save(slices(hu(seed=1), series="1.2.3.5", SeriesDescription="=venous()"), folder / "2")
    return tmp_path / "cd"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "images"


@pytest.mark.slow
def test_each_series_becomes_one_image_that_the_reader_takes(source, out):
    assert convert(source, out)[0] == 0
    assert sorted(path.name for path in out.iterdir()) == ["case0001_0000.nii.gz", "case0002_0000.nii.gz", "series.csv"]
    for case, seed in (("case0001", 0), ("case0002", 1)):
        image, properties = SimpleITKIO().read_images([out / f"{case}_0000.nii.gz"])
        assert np.array_equal(image[0], hu(seed=seed)) and np.allclose(properties["spacing"], (2.5, 0.9, 0.8))
        assert np.allclose(properties["sitk_stuff"]["origin"], (-10, 20, 30))


def test_the_table_says_what_came_from_where(source, out):
    convert(source, out)
    row = rows_of(out)["case0001"]
    assert (row["series_uid"], row["study_uid"], row["modality"], row["slices"], row["size"], row["spacing_mm"]) == ("1.2.3.4", "1.2.3", "CT", "6", "8 7 6", "0.8 0.9 2.5")
    assert row["folder"].endswith(f"cd/{PATIENT}/1") and row["description"] == "arterial" and rows_of(out)["case0002"]["description"] == "=venous()"
    assert "'=venous()" in (out / "series.csv").read_text()  # no spreadsheet runs it


@pytest.mark.slow
def test_names_of_folders_are_taken_when_asked_for_and_safe(source, out):
    shutil.copytree(source / PATIENT / "1", source / "chest")
    for one in (source / "chest").iterdir():
        content = one.read_bytes()
        one.write_bytes(content.replace(b"1.2.3.4\0", b"1.2.3.6\0"))
    assert convert(source, out, "--folder-names")[0] == 0
    assert sorted(rows_of(out)) == ["1", "2", "chest"]


@pytest.mark.slow
def test_folders_of_one_name_give_two_cases_and_unsafe_names_none(source, out, tmp_path):
    for place, uid in ((tmp_path / "x" / "ct", "1.2.3.7"), (tmp_path / "x" / "more" / "CT", "1.2.3.8"), (tmp_path / "x" / "a:b", "1.2.3.9")):
        save(slices(hu(), series=uid), place)
    assert convert(tmp_path / "x", out, "--folder-names")[0] == 0
    assert sorted(rows_of(out)) == ["CT-2", "case0001", "ct"]


@pytest.mark.slow
def test_a_second_run_keeps_what_is_there_and_adds_what_is_new(source, out, capsys):
    convert(source, out)
    first = {path: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")}
    save(slices(hu(seed=2), series="1.2.3.0"), source / "0")  # comes first in the order of folders
    status, printed = convert(source, out, capsys=capsys)
    assert status == 0 and "3 series are in" in printed and "2 of them by a former run" in printed
    assert {path: path.stat().st_mtime_ns for path in first} == first and rows_of(out)["case0003"]["series_uid"] == "1.2.3.0"


@pytest.mark.slow
def test_a_run_that_ended_half_way_goes_on(source, out, monkeypatch, capsys):
    write = dicom_conversion._write

    def ends_at_the_second(image, target):
        if target.name == "case0002_0000.nii.gz":
            raise RuntimeError("half way")
        write(image, target)

    monkeypatch.setattr(dicom_conversion, "_write", ends_at_the_second)
    assert "half way" in convert(source, out)[0]
    monkeypatch.undo()
    assert [path.name for path in out.glob("*.nii.gz")] == ["case0001_0000.nii.gz"]
    status, printed = convert(source, out, capsys=capsys)
    assert status == 0 and "1 of them by a former run" in printed and len(list(out.glob("*.nii.gz"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["source changed", "image cut"])
def test_what_is_not_of_these_files_or_not_whole_is_made_again(source, out, harm):
    convert(source, out)
    image = out / "case0001_0000.nii.gz"
    if harm == "source changed":
        save(slices(hu(seed=5)), source / PATIENT / "1")
    else:
        image.write_bytes(image.read_bytes()[:-30])
    assert convert(source, out)[0] == 0
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(image))), hu(seed=5 if harm == "source changed" else 0))


@pytest.mark.slow
def test_an_image_whose_series_broke_does_not_stay(source, out):
    convert(source, out)
    path = next((source / PATIENT / "2").iterdir())
    path.write_bytes(path.read_bytes()[:-20])
    status, _ = convert(source, out)
    assert "is cut short or damaged" in status and not (out / "case0002_0000.nii.gz").exists() and list(rows_of(out)) == ["case0001"]


@pytest.mark.slow
def test_all_bad_series_are_in_one_message_and_the_good_ones_are_there(source, out):
    save(slices(hu(), series="1.9.1", shear=(0, 0.2)), source / "tilted")
    made = slices(hu(), series="1.9.2")
    save(made[:2] + made[3:], source / "gap")
    save(slices(hu(), series="1.9.3", RescaleIntercept=None), source / "no_scale")
    (source / "broken").mkdir()
    (source / "broken" / "x.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"x" * 50)
    status, _ = convert(source, out)
    assert all(text in status for text in ("4 series or file(s) cannot be converted; 2 series are in", "tilted by 11.31 degrees", "1 slice(s) are missing",
                                           "RescaleIntercept missing", "x.dcm"))
    assert len(list(out.glob("*.nii.gz"))) == 2


@pytest.mark.slow
def test_a_tilt_is_resampled_when_asked_for(source, out):
    save(slices(hu(), series="1.9.1", shear=(0, 0.2)), source / "tilted")
    assert convert(source, out, "--resample-tilt")[0] == 0
    row = next(row for row in rows_of(out).values() if row["series_uid"] == "1.9.1")
    assert row["tilt_degrees"] == "11.31" and sitk.ReadImage(str(out / row["image"])).GetSize() == (8, 10, 6)


@pytest.mark.slow
def test_what_is_skipped_is_counted(source, out, capsys):
    (source / "readme.txt").write_text("x")
    save(slices(hu((2, 7, 8)), series="1.9.4"), source / "scout")
    printed = convert(source, out, capsys=capsys)[1]
    assert "1 x no DICOM file: readme.txt" in printed and "2 x file of a series of fewer than 5 slices" in printed


@pytest.mark.slow
def test_a_dry_run_writes_nothing(source, out, capsys):
    status, printed = convert(source, out, "--dry-run", capsys=capsys)
    assert status == 0 and "2 series can be converted" in printed and not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "named"), [(["--modality", "MR"], "no MR series of 5 or more slices"), (["--min-slices", "9"], "no CT series of 9 or more slices")])
def test_a_folder_without_a_series_says_so(source, out, flags, named):
    assert named in convert(source, out, *flags)[0]


def test_images_of_another_origin_are_not_mixed_in(source, out):
    out.mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(hu()), str(out / "case0001_0000.nii.gz"))
    assert "holds images that series.csv does not know" in convert(source, out)[0]


@pytest.mark.slow
def test_a_table_whose_names_lead_out_is_refused(source, out, tmp_path):
    convert(source, out)
    table = out / "series.csv"
    table.write_text(table.read_text().replace("case0001,", "../x,", 1))
    (tmp_path / "x_0000.nii.gz").write_bytes(b"keep me")
    assert "'../x'" in convert(source, out)[0] and (tmp_path / "x_0000.nii.gz").read_bytes() == b"keep me"


def test_a_missing_source_and_a_link_are_named(source, out):
    assert "is not a folder" in convert(source / "nowhere", out)[0]
    (source / "away").symlink_to("/etc")
    assert "away is a link to '/etc'" in convert(source, out)[0]


def test_without_pydicom_the_remedy_is_named(source, out, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)  # importing it fails
    assert 'pip install -c constraints.txt -e ".[dicom]"' in convert(source, out)[0]
