"""A folder of DICOM series goes through prediction: masks as of the converted images, SEG on the right slices."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunetv2.imageio.dicom_conversion import convert_folder
from nnunetv2.imageio.dicom_files import scan_folder
from nnunetv2.imageio.dicom_seg import write_segmentation
from nnunetv2.imageio.dicom_series import stack_of
from nnunetv2.inference.dicom_cases import dicom_cases
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor, run_prediction
from nnunetv2.utilities.csv_files import read_csv
from nnunetv2.utilities.errors import InputError
from tests.imageio.made_dicom import PATIENT, hu, save, slices
from tests.imageio.test_dicom import enhanced
from tests.inference.tiny_model import smooth_ct

pydicom = pytest.importorskip("pydicom")
REALCT = Path(__file__).resolve().parents[3] / "shared" / "realct"
LABELS = {"background": 0, "pancreas": 1, "lesion": 2}


def predict(model, source, out, **options):
    return run_prediction(source, out, model, folds=(0,), device=torch.device("cpu"), engine="torch", tta=1, allow_tqdm=False, **options)


def array(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


@pytest.fixture
def dicom_folder(tmp_path):
    """Two CT series, the second with slices that run downwards, and a text file."""
    folder = tmp_path / "dicom"
    save(slices(smooth_ct(seed=0)), folder / PATIENT / "a", order=np.random.default_rng(0).permutation(10))
    save(slices(smooth_ct(seed=1), series="1.2.3.5", orientation=(1, 0, 0, 0, -1, 0)), folder / PATIENT / "b")
    (folder / "read.me").write_text("a CD")
    return folder


def segments_of(path):
    """{label: {SOPInstanceUID of the slice: mask (Y, X)}} as the file's own references say, without highdicom."""
    seg = pydicom.dcmread(path)
    names = {item.SegmentNumber: item.SegmentLabel for item in seg.SegmentSequence}
    frames = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    found = {}
    for frame, groups in zip(frames, seg.PerFrameFunctionalGroupsSequence):
        number = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        source = groups.DerivationImageSequence[0].SourceImageSequence[0]
        found.setdefault(names[number], {})[(source.ReferencedSOPInstanceUID, source.get("ReferencedFrameNumber"))] = frame
    return found


def assert_seg_is(path, mask, planes, labels=LABELS):
    """Every slice of `mask` stands in the SEG at the slice that it was predicted on, and nothing else does."""
    found = segments_of(path)
    for name, value in labels.items():
        if name == "background":
            continue
        expected = {(plane.instance_uid, plane.frame + 1 if plane.n_frames > 1 else None): np.isin(slice_, value) for plane, slice_ in zip(planes, mask)
                    if np.isin(slice_, value).any()}
        assert found.get(name, {}).keys() == expected.keys()
        assert all(np.array_equal(found[name][key], expected[key]) for key in expected)


@pytest.mark.slow
def test_masks_are_those_of_the_converted_images_and_lie_on_the_slices(model_folder, dicom_folder, tmp_path):
    assert predict(model_folder, dicom_folder, tmp_path / "out", dicom_images=tmp_path / "kept") == 0
    convert_folder(dicom_folder, tmp_path / "images")
    assert predict(model_folder, tmp_path / "images", tmp_path / "expected") == 0
    for case, values in (("case0001", smooth_ct(seed=0)), ("case0002", smooth_ct(seed=1))):
        mask, expected = tmp_path / "out" / f"{case}.nii.gz", tmp_path / "expected" / f"{case}.nii.gz"
        assert mask.read_bytes() == expected.read_bytes()
        assert array(mask).any() and np.array_equal(array(tmp_path / "kept" / f"{case}_0000.nii.gz"), values)
    assert sitk.ReadImage(str(tmp_path / "out" / "case0002.nii.gz")).GetDirection() == (1, 0, 0, 0, -1, 0, 0, 0, -1)


@pytest.mark.slow
def test_the_table_tells_which_mask_is_of_which_series_and_no_file_name_is_a_patients(model_folder, dicom_folder, tmp_path):
    predict(model_folder, dicom_folder, tmp_path / "out")
    rows = read_csv(tmp_path / "out" / "series.csv").rows
    assert [(row["series_uid"], row["mask"], row["dicom_seg"]) for row in rows] == [("1.2.3.4", "case0001.nii.gz", ""), ("1.2.3.5", "case0002.nii.gz", "")]
    written = [path.name for folder in ("out", "out_images") for path in (tmp_path / folder).rglob("*")]
    assert "case0001_0000.nii.gz" in written and not [name for name in written if "DOE" in name]


@pytest.mark.slow
def test_segs_hold_the_masks_at_their_slices_with_the_labels_names(model_folder, dicom_folder, tmp_path):
    pytest.importorskip("highdicom")
    assert predict(model_folder, dicom_folder, tmp_path / "out", dicom_seg=True) == 0
    for series in scan_folder(dicom_folder, progress=False).series:
        row = next(row for row in read_csv(tmp_path / "out" / "series.csv").rows if row["series_uid"] == series.uid)
        path, mask = tmp_path / "out" / row["dicom_seg"], array(tmp_path / "out" / row["mask"])
        assert set(np.unique(mask)) == {0, 1, 2}
        assert_seg_is(path, mask, stack_of(series).planes)
        seg, source = pydicom.dcmread(path), pydicom.dcmread(series.files[0])
        assert seg.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.4" and [item.SegmentLabel for item in seg.SegmentSequence] == ["pancreas", "lesion"]
        assert (seg.PatientID, seg.StudyInstanceUID, seg.FrameOfReferenceUID) == (source.PatientID, source.StudyInstanceUID, source.FrameOfReferenceUID)
        assert {item.SeriesInstanceUID for item in seg.ReferencedSeriesSequence} == {series.uid}


@pytest.mark.slow
def test_highdicom_reads_the_seg_back_as_the_mask(model_folder, dicom_folder, tmp_path):
    highdicom = pytest.importorskip("highdicom")
    predict(model_folder, dicom_folder, tmp_path / "out", dicom_seg=True)
    seg = highdicom.seg.segread(tmp_path / "out" / "case0001_seg.dcm")
    planes = stack_of(scan_folder(dicom_folder, progress=False).series[0]).planes
    layers = seg.get_pixels_by_source_instance([plane.instance_uid for plane in planes], combine_segments=True, ignore_spatial_locations=True, assert_missing_frames_are_empty=True)
    assert np.array_equal(layers, array(tmp_path / "out" / "case0001.nii.gz"))


@pytest.mark.slow
def test_a_second_run_keeps_masks_images_and_segs(model_folder, dicom_folder, tmp_path):
    pytest.importorskip("highdicom")
    predict(model_folder, dicom_folder, tmp_path / "out", dicom_seg=True)
    files = sorted(path for folder in ("out", "out_images") for path in (tmp_path / folder).glob("case*"))
    before = [path.stat().st_mtime_ns for path in files]
    assert predict(model_folder, dicom_folder, tmp_path / "out", dicom_seg=True, overwrite=False) == 0
    assert len(files) == 6 and [path.stat().st_mtime_ns for path in files] == before


@pytest.mark.slow
def test_a_bad_series_is_named_and_the_others_are_predicted(model_folder, dicom_folder, tmp_path, capsys):
    (dicom_folder / PATIENT / "b" / "IM0004").unlink()
    assert predict(model_folder, dicom_folder, tmp_path / "out") == 1
    assert "1 slice(s) are missing" in capsys.readouterr().err
    assert (tmp_path / "out" / "case0001.nii.gz").is_file() and not (tmp_path / "out" / "case0002.nii.gz").exists()


@pytest.mark.slow
def test_parts_share_the_series(model_folder, dicom_folder, tmp_path):
    for part in (1, 0):
        assert predict(model_folder, dicom_folder, tmp_path / "out", num_parts=2, part_id=part) == 0
    assert [row["case"] for row in read_csv(tmp_path / "out" / "series.csv").rows] == ["case0001", "case0002"]


@pytest.mark.slow
@pytest.mark.parametrize(("change", "options", "named"), [
    ({}, {"dicom_seg": True}, "--dicom_seg needs DICOM series"),
    ({"channel_names": {"0": "T1", "1": "T2"}}, {}, "takes 2 channels (T1, T2)"), ({"file_ending": ".png"}, {}, "'.png' is none that SimpleITKIO reads")])
def test_what_dicom_cannot_serve_is_refused_before_the_model_is_loaded(model_folder, dicom_folder, image_folder, tmp_path, change, options, named):
    model = tmp_path / "model"
    shutil.copytree(model_folder, model)
    content = json.loads((model / "dataset.json").read_text()) | change
    (model / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(InputError) as caught:
        predict(model, image_folder if options else dicom_folder, tmp_path / "out", **options)
    assert named in str(caught.value)


@pytest.mark.slow
def test_without_highdicom_a_seg_is_refused_before_anything_is_computed(model_folder, dicom_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)  # importing it fails
    with pytest.raises(InputError, match=r'pip install -c constraints.txt -e "\.\[dicom\]"'):
        predict(model_folder, dicom_folder, tmp_path / "out", dicom_seg=True)
    assert not (tmp_path / "out_images").exists()


@pytest.mark.slow
def test_a_case_that_failed_gets_no_seg_of_an_older_mask(model_folder, dicom_folder, tmp_path, monkeypatch, capsys):
    pytest.importorskip("highdicom")
    predict(model_folder, dicom_folder, tmp_path / "out", dicom_seg=True)
    (tmp_path / "out" / "case0001_seg.dcm").unlink()

    def fails_for_the_first(self, case, run):
        if case.name == "case0001":
            raise InputError("case0001 cannot be read. Mend it.")
        return read(self, case, run)

    read = nnUNetPredictor._read
    monkeypatch.setattr(nnUNetPredictor, "_read", fails_for_the_first)
    assert predict(model_folder, dicom_folder, tmp_path / "out", dicom_seg=True) == 1
    assert not (tmp_path / "out" / "case0001_seg.dcm").exists() and (tmp_path / "out" / "case0002_seg.dcm").exists()
    assert capsys.readouterr().err.count("error:") == 1


def test_without_a_series_all_reasons_are_named(model_folder, tmp_path):
    folder = tmp_path / "dicom"
    save(slices(hu(), RescaleSlope=None), folder / "a")
    save(slices(hu(), series="1.2.3.5", shear=(0, 0.5)), folder / "b")
    with pytest.raises(InputError) as caught:
        predict(model_folder, folder, tmp_path / "out")
    assert "RescaleSlope missing" in str(caught.value) and "tilted by 26.57 degrees" in str(caught.value)


@pytest.mark.slow
@pytest.mark.skipif(not (REALCT / "ts_dicom_0000.nii.gz").is_file(), reason="../shared/realct is not here")
def test_a_real_ct_as_dicom_has_the_mask_of_its_nifti(model_folder, tmp_path):
    image = sitk.ReadImage(str(REALCT / "ts_dicom_0000.nii.gz"))[50:80, 40:74]
    direction, spacing = np.reshape(image.GetDirection(), (3, 3)), image.GetSpacing()
    values = sitk.GetArrayFromImage(image).astype(int)
    orientation = tuple(np.round(direction[:, :2].T.ravel(), 9).tolist())
    made = [slices(values[z:z + 1], image.TransformIndexToPhysicalPoint((0, 0, z)), orientation, spacing=(spacing[1], spacing[0]))[0] for z in range(len(values))]
    save(made, tmp_path / "dicom")
    (tmp_path / "nifti").mkdir()
    sitk.WriteImage(image, str(tmp_path / "nifti" / "ts_dicom_0000.nii.gz"))
    assert predict(model_folder, tmp_path / "dicom", tmp_path / "out") == predict(model_folder, tmp_path / "nifti", tmp_path / "expected") == 0
    mask, expected = sitk.ReadImage(str(tmp_path / "out/case0001.nii.gz")), sitk.ReadImage(str(tmp_path / "expected/ts_dicom.nii.gz"))
    turned = np.cross(direction[:, 0], direction[:, 1]) @ direction[:, 2]
    assert turned > 0 and np.allclose(mask.GetOrigin(), expected.GetOrigin(), atol=1e-4)
    assert array(tmp_path / "out/case0001.nii.gz").any()
    assert np.mean(sitk.GetArrayFromImage(mask) != sitk.GetArrayFromImage(expected)) == 0


# ---- SEG by itself

def stack_in(folder):
    return stack_of(scan_folder(folder, progress=False).series[0])


@pytest.mark.slow
def test_an_empty_mask_makes_a_seg_without_foreground(tmp_path):
    pytest.importorskip("highdicom")
    save(slices(hu()), tmp_path)
    write_segmentation(np.zeros((6, 7, 8), np.uint8), stack_in(tmp_path), LABELS, tmp_path / "seg.dcm", "model")
    assert not pydicom.dcmread(tmp_path / "seg.dcm").pixel_array.any()


@pytest.mark.slow
def test_regions_become_segments_that_overlap(tmp_path):
    pytest.importorskip("highdicom")
    save(slices(hu()), tmp_path)
    mask = np.zeros((6, 7, 8), np.uint8)
    mask[1:4, 2:5], mask[2, 3, 3] = 1, 2
    labels = {"background": 0, "whole": [1, 2], "lesion": [2]}
    stack = stack_in(tmp_path)
    write_segmentation(mask, stack, labels, tmp_path / "seg.dcm", "model")
    assert_seg_is(tmp_path / "seg.dcm", mask, stack.planes, labels)


@pytest.mark.slow
def test_labels_need_not_be_consecutive(tmp_path):
    pytest.importorskip("highdicom")
    save(slices(hu()), tmp_path)
    mask = np.zeros((6, 7, 8), np.uint8)
    mask[1, 2], mask[2, 3] = 3, 7
    labels, stack = {"background": 0, "duct": 7, "gland": 3, "ignore": 8}, stack_in(tmp_path)
    write_segmentation(mask, stack, labels, tmp_path / "seg.dcm", "model")
    assert_seg_is(tmp_path / "seg.dcm", mask, stack.planes, {"duct": 7, "gland": 3})


def test_frames_of_one_file_are_referred_to_by_their_number(tmp_path):
    pytest.importorskip("highdicom")
    order = [2, 0, 1, 5, 4, 3]
    save([enhanced(hu()[order], [(-10.0, 20.0, 30.0 + 2.5 * z) for z in order])], tmp_path)
    mask = np.zeros((6, 7, 8), np.uint8)
    for z in range(5):
        mask[z, : z + 1] = 1 + z % 2
    stack = stack_in(tmp_path)
    write_segmentation(mask, stack, LABELS, tmp_path / "seg.dcm", "model")
    assert_seg_is(tmp_path / "seg.dcm", mask, stack.planes)


@pytest.mark.parametrize("shape", [(5, 7, 8), (6, 8, 7)])
def test_a_mask_of_another_size_is_refused(tmp_path, shape):
    pytest.importorskip("highdicom")
    save(slices(hu()), tmp_path)
    with pytest.raises(InputError, match="does not lie on them"):
        write_segmentation(np.zeros(shape, np.uint8), stack_in(tmp_path), LABELS, tmp_path / "seg.dcm", "model")


def test_headers_too_poor_for_a_seg_are_named(tmp_path):
    pytest.importorskip("highdicom")
    save(slices(hu(), FrameOfReferenceUID=None, StudyInstanceUID=None), tmp_path)
    with pytest.raises(InputError, match="headers lack or hold what a SEG cannot repeat"):
        write_segmentation(np.ones((6, 7, 8), np.uint8), stack_in(tmp_path), LABELS, tmp_path / "seg.dcm", "model")


def seg_of(tmp_path, labels=LABELS, model="model", **changed):
    """A SEG of slices with `changed` headers, as it is read back."""
    pytest.importorskip("highdicom")
    save(slices(hu(), **changed), tmp_path / "slices")
    mask = np.zeros((6, 7, 8), np.uint8)
    mask[1, 2, 3], mask[4, 3, 2] = 1, 2
    stack = stack_in(tmp_path / "slices")
    write_segmentation(mask, stack, labels, tmp_path / "seg.dcm", model)
    assert_seg_is(tmp_path / "seg.dcm", mask, stack.planes, labels)
    return pydicom.dcmread(tmp_path / "seg.dcm")


@pytest.mark.parametrize("missing", ["PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
                                     "ReferringPhysicianName", "PositionReferenceIndicator", "SliceThickness"])
def test_headers_without_what_may_be_empty_get_a_seg(tmp_path, missing):
    seg = seg_of(tmp_path, **{missing: None})
    assert missing == "SliceThickness" or not seg[missing].value
    assert seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness == (2.5 if missing == "SliceThickness" else 2.0)


@pytest.mark.parametrize(("charset", "name"), [("ISO_IR 100", "M\u00fcller^J\u00f6rg"), ("ISO_IR 192", "\u8179\u90e8^J\u00f6rg"),
                                               (["", "ISO 2022 IR 87"], "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce"), ("GB18030", "Wang^XiaoDong=\u738b^\u5c0f\u4e1c")])
def test_names_and_labels_in_any_script_stay_what_they_are(tmp_path, charset, name):
    labels = {"background": 0, "\u81b5\u81d3": 1, "Bauchspeicheldr\u00fcse": 2}
    seg = seg_of(tmp_path, labels, SpecificCharacterSet=charset, PatientName=name)
    assert str(seg.PatientName) == name and [segment.SegmentLabel for segment in seg.SegmentSequence] == list(labels)[1:]


def test_a_label_with_a_backslash_is_one_value(tmp_path):
    seg = seg_of(tmp_path, {"background": 0, "left/right": 1, "b": 2}, "a\\b", SeriesDescription="x")
    assert seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmSource == "a/b"
    (tmp_path / "other").mkdir()
    write_segmentation(np.ones((6, 7, 8), np.uint8), stack_in(tmp_path / "slices"), {"background": 0, "left\\right": 1}, tmp_path / "other" / "seg.dcm", "m")
    assert pydicom.dcmread(tmp_path / "other" / "seg.dcm").SegmentSequence[0].SegmentLabel == "left/right"


@pytest.mark.slow
@pytest.mark.parametrize(("below", "output"), [("", "."), ("sub", ".."), ("", "sub/..")])
def test_the_output_may_be_the_folder_one_stands_in_or_above(model_folder, dicom_folder, tmp_path, monkeypatch, below, output):
    (tmp_path / "work" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work" / below)
    assert predict(model_folder, dicom_folder, output) == 0
    assert sorted(path.name for path in tmp_path.glob("work_images/*.nii.gz")) == ["case0001_0000.nii.gz", "case0002_0000.nii.gz"]
    assert len(list(tmp_path.glob("work/*.nii.gz"))) == 2


def test_an_output_without_a_place_beside_it_is_named(model_folder, dicom_folder):
    with pytest.raises(InputError, match="/ has no folder beside it.*--dicom_images"):
        dicom_cases(dicom_folder, "/", {"file_ending": ".nii.gz", "channel_names": {"0": "CT"}}, model_folder)


@pytest.mark.slow
def test_masks_beside_the_series_are_no_images_for_the_next_run(model_folder, dicom_folder):
    for _ in range(2):
        assert predict(model_folder, dicom_folder, dicom_folder) == 0
    assert sorted(path.name for path in dicom_folder.glob("*.nii.gz")) == ["case0001.nii.gz", "case0002.nii.gz"]
