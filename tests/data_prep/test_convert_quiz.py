"""convert_quiz: what is written, what is refused, what is kept."""

import csv
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.convert_quiz import DATASET, convert, main, stratified_folds
from nnunetv2.imageio.geometry import grid_difference
from nnunetv2.imageio.label_values import snap_labels
from experiments.stage import content_key
from nnunetv2.utilities.files import load_json
from nnunetv2.utilities.folder_lock import FolderBusy, folder_lock
from nnunetv2.verification import verify

REALCT = Path(os.environ.get("REALCT", Path(__file__).resolve().parents[3] / "shared" / "realct"))


def run(quiz, tmp_path, **options):
    convert(quiz.root, tmp_path / "raw", processes=1, **options)
    return tmp_path / "raw" / DATASET


def refusal(quiz, tmp_path, **options) -> str:
    with pytest.raises(ValueError) as error:
        run(quiz, tmp_path, **options)
    assert not (tmp_path / "raw").exists(), "nothing may be written when a case is bad"
    return str(error.value)


@pytest.mark.slow
def test_masks_become_uint8_on_their_images_grid(quiz, tmp_path):
    out = run(quiz, tmp_path)
    mask, image = sitk.ReadImage(str(out / "labelsTr/quiz_0_001.nii.gz")), sitk.ReadImage(str(out / "imagesTr/quiz_0_001_0000.nii.gz"))
    assert mask.GetPixelID() == sitk.sitkUInt8
    assert (mask.GetOrigin(), mask.GetSpacing(), mask.GetDirection()) == (image.GetOrigin(), image.GetSpacing(), image.GetDirection())
    assert np.bincount(sitk.GetArrayFromImage(mask).ravel()).tolist() == [6 * 7 * 8 - 48, 24, 24]


@pytest.mark.slow
def test_tables_name_every_labelled_case_and_no_test_case(quiz, tmp_path):
    out = run(quiz, tmp_path)
    rows = list(csv.DictReader((out / "subtypes.csv").open()))
    assert len(rows) == 12
    assert all(row["case"].split("_")[1] == row["subtype"] for row in rows)
    description = load_json(out / "dataset.json")
    assert description["numTraining"] == 12
    assert description["holdout"] == ["quiz_0_004", "quiz_1_004", "quiz_2_004"]
    assert sorted(file.name for file in (out / "imagesTs").iterdir()) == ["quiz_005_0000.nii.gz", "quiz_006_0000.nii.gz"]


@pytest.mark.slow
def test_fold_0_is_the_quizs_split_and_later_folds_never_see_validation_cases(quiz, tmp_path):
    folds = load_json(run(quiz, tmp_path) / "splits_final.json")
    assert folds[0]["val"] == ["quiz_0_004", "quiz_1_004", "quiz_2_004"]
    assert len(folds) == 6
    assert sorted(case for fold in folds[1:] for case in fold["val"]) == folds[0]["train"]
    assert all(set(fold["train"]) | set(fold["val"]) == set(folds[0]["train"]) for fold in folds[1:])


@settings(max_examples=40)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=4))
def test_folds_are_stratified_whatever_the_counts(counts):
    subtypes = {f"case_{s}_{i}": str(s) for s, n in enumerate(counts) for i in range(n)}
    folds = stratified_folds(subtypes)
    sizes = [len(fold["val"]) for fold in folds]
    assert max(sizes) - min(sizes) <= 1 and sum(sizes) == len(subtypes)
    for s in range(len(counts)):
        shares = [sum(subtypes[case] == str(s) for case in fold["val"]) for fold in folds]
        assert max(shares) - min(shares) <= 1


def test_folds_do_not_depend_on_the_order_of_cases():
    subtypes = {f"case_{i}": str(i % 3) for i in range(20)}
    assert stratified_folds(subtypes) == stratified_folds(dict(reversed(subtypes.items())))


@pytest.mark.slow
def test_a_second_run_keeps_what_is_right_and_repairs_what_is_not(quiz, tmp_path):
    out = run(quiz, tmp_path)
    broken, kept = out / "labelsTr/quiz_0_001.nii.gz", out / "labelsTr/quiz_1_001.nii.gz"
    image = out / "imagesTr/quiz_2_002_0000.nii.gz"
    broken.write_bytes(broken.read_bytes()[:40])
    before = {file: file.stat().st_ino for file in (kept, image)}
    run(quiz, tmp_path)
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(broken))).sum() == 24 + 48
    assert {file: file.stat().st_ino for file in before} == before


@pytest.mark.slow
def test_symlink_links_images_and_a_later_copy_replaces_the_links(quiz, tmp_path):
    out = run(quiz, tmp_path, symlink=True)
    image = out / "imagesTr/quiz_0_001_0000.nii.gz"
    assert image.is_symlink() and image.resolve() == quiz.files()[0].resolve()
    run(quiz, tmp_path)
    assert not image.is_symlink() and image.read_bytes() == quiz.files()[0].read_bytes()


def test_dry_run_prints_the_table_and_writes_nothing(quiz, tmp_path, capsys):
    main(["--data", str(quiz.root), "--out", str(tmp_path / "raw"), "--dry-run", "-np", "1"])
    printed = capsys.readouterr().out
    assert "0: 3, 1: 3, 2: 3" in printed and "2.000 x 0.900 x 0.800" in printed and "6 x 7 x 8" in printed
    assert not (tmp_path / "raw").exists()


def test_all_bad_cases_are_in_one_list(quiz, tmp_path):
    quiz.files("train", 0, 1)[1].unlink()
    quiz.files("train", 1, 2)[0].unlink()
    quiz.write(np.zeros((6, 7, 8), np.uint8), quiz.files("validation", 2, 4)[1])
    message = refusal(quiz, tmp_path)
    assert "no mask quiz_0_001.nii.gz" in message
    assert "no image quiz_1_002_0000.nii.gz" in message
    assert "quiz_2_004.nii.gz: no pancreas" in message
    assert "3 problem(s)" in message


@pytest.mark.slow
@pytest.mark.parametrize("kept", [0.3, 0.98])
def test_truncated_gzip_is_refused_though_itk_reads_it(quiz, tmp_path, kept):
    file = quiz.test_image()
    content = file.read_bytes()
    file.write_bytes(content[:int(len(content) * kept)])
    assert "quiz_005_0000.nii.gz is damaged" in refusal(quiz, tmp_path)


@pytest.mark.slow
def test_a_file_that_is_no_gzip_is_refused(quiz, tmp_path):
    quiz.files()[1].write_bytes(b"not a mask")
    assert "quiz_0_001.nii.gz is no NIfTI-1 file" in refusal(quiz, tmp_path)


@pytest.mark.slow
def test_four_dimensions_are_refused(quiz, tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 6, 7, 8), np.int16)), str(quiz.test_image()))
    assert "quiz_005_0000.nii.gz is not a single 3D volume" in refusal(quiz, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_not_finite_are_refused_though_itk_hides_them(quiz, tmp_path, value):
    ct = np.zeros((6, 7, 8), np.float32)
    ct[0, 0, 0] = value
    quiz.write(ct, quiz.files()[0])
    quiz.write(ct.astype(np.float64), quiz.files("train", 1, 2)[1])
    message = refusal(quiz, tmp_path)
    assert "quiz_1_002.nii.gz has 1 NaN or infinite voxel" in message
    assert "quiz_0_001_0000.nii.gz has 1 NaN or infinite voxel" in message


@pytest.mark.slow
@pytest.mark.parametrize("value", [3.0, 1.002, 0.5, -1.0])
def test_mask_values_other_than_labels_are_refused_with_the_value(quiz, tmp_path, value):
    labels = np.ones((6, 7, 8), np.float32)
    labels[0, 0, 0] = value
    quiz.write(labels, quiz.files()[1])
    assert re.search(rf"quiz_0_001\.nii\.gz holds .*\b{abs(value):g}[ ;]", refusal(quiz, tmp_path))


def test_values_within_a_thousandth_are_snapped():
    assert snap_labels(np.array([0, 1.0000152587890625, 1.9991, -0.0009]), "mask").tolist() == [0, 1, 2, 0]


@pytest.mark.slow
def test_subtype_in_the_name_must_match_the_folder(quiz, tmp_path):
    image, mask = quiz.files("train", 0, 1)
    for file in (image, mask):
        file.rename(file.with_name(file.name.replace("quiz_0_001", "quiz_1_009")))
    assert "subtype 1 in the name, 0 in the folder" in refusal(quiz, tmp_path)


@pytest.mark.slow
def test_an_id_in_two_splits_is_refused(quiz, tmp_path):
    for source, target in zip(quiz.files("train", 1, 2), quiz.files("validation", 1, 2)):
        shutil.copy(source, target)
    assert "quiz_1_002: this id is there 2 times" in refusal(quiz, tmp_path)


@pytest.mark.slow
def test_files_in_sub_folders_are_refused(quiz, tmp_path):
    (quiz.root / "train/subtype1/copy").mkdir()
    for file in quiz.files("train", 1, 2):
        shutil.copy(file, quiz.root / "train/subtype1/copy" / file.name)
    assert "copy/quiz_1_002.nii.gz: lies in a sub-folder" in refusal(quiz, tmp_path)


@pytest.mark.slow
def test_unknown_names_and_folders_are_refused_but_hidden_and_other_files_are_not(quiz, tmp_path):
    (quiz.root / "train/subtype0/._quiz_0_001.nii.gz").write_bytes(b"")
    (quiz.root / "train/notes.csv").write_text("")
    run(quiz, tmp_path)
    shutil.rmtree(tmp_path / "raw")
    shutil.copy(quiz.test_image(), quiz.root / "test/scan.nii.gz")
    (quiz.root / "train/subtype7").mkdir()
    shutil.copy(quiz.test_image(), quiz.root / "train/subtype7/quiz_7_001_0000.nii.gz")
    message = refusal(quiz, tmp_path)
    assert "scan.nii.gz: not named" in message and "subtype7: unknown folder" in message


@pytest.mark.slow
def test_a_missing_split_is_refused_and_a_missing_test_set_is_not(quiz, tmp_path):
    shutil.rmtree(quiz.root / "test")
    run(quiz, tmp_path)
    shutil.rmtree(tmp_path / "raw")
    shutil.rmtree(quiz.root / "validation")
    assert "validation: no such folder" in refusal(quiz, tmp_path)


@pytest.mark.slow
def test_files_of_another_conversion_are_refused(quiz, tmp_path):
    out = run(quiz, tmp_path)
    shutil.copy(quiz.test_image(), out / "imagesTr/quiz_0_999_0000.nii.gz")
    with pytest.raises(ValueError, match="quiz_0_999_0000.nii.gz: belongs to no case"):
        run(quiz, tmp_path)


# Geometry: a mask stored flipped (voxel-paired it would lie on gas), and one whose header sends it somewhere else.

@pytest.mark.slow
def test_flipped_mask_is_refused(quiz, tmp_path, flipped):
    array, geometry = flipped(quiz_labels(quiz))
    quiz.write(array, quiz.files("train", 0, 2)[1], **geometry)
    message = refusal(quiz, tmp_path)
    assert "quiz_0_002.nii.gz lies up to 5.4 mm off" in message and "--fix-geometry" in message


@pytest.mark.slow
def test_fix_geometry_puts_a_flipped_mask_back(quiz, tmp_path, flipped):
    expected = quiz_labels(quiz)
    array, geometry = flipped(expected)
    quiz.write(array, quiz.files("train", 0, 2)[1], **geometry)
    out = run(quiz, tmp_path, fix_geometry=True)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(out / "labelsTr/quiz_0_002.nii.gz"))), expected)


def test_fix_geometry_refuses_to_lose_a_label(quiz, tmp_path):
    """A lesion of one voxel on a grid of half the image's voxels, where none of these has its centre."""
    mask = quiz.files("train", 0, 2)[1]
    coarse = sitk.ReadImage(str(mask))
    fine = np.kron(quiz_labels(quiz) > 0, np.ones((2, 2, 2))).astype(np.uint8)
    fine[5, 4, 6] = 2
    image = sitk.GetImageFromArray(fine)
    image.SetSpacing([value / 2 for value in coarse.GetSpacing()])
    image.SetOrigin([start - value / 4 for start, value in zip(coarse.GetOrigin(), coarse.GetSpacing())])
    sitk.WriteImage(image, str(mask))
    assert "resampling leaves no voxel of label(s) 2" in refusal(quiz, tmp_path, fix_geometry=True)


@pytest.mark.slow
def test_fix_geometry_refuses_a_mask_that_lies_outside_its_image(quiz, tmp_path):
    quiz.write(quiz_labels(quiz), quiz.files("train", 0, 2)[1], origin=(10.0, -20.0, 276.0))
    assert "only 0% of it lies in the image" in refusal(quiz, tmp_path, fix_geometry=True)


@pytest.mark.slow
def test_a_mask_with_a_right_header_on_the_wrong_tissue_is_refused(quiz, tmp_path):
    quiz.write(quiz_labels(quiz)[:, ::-1].copy(), quiz.files("train", 0, 2)[1])
    assert "of the pancreas mask lies on gas or bone" in refusal(quiz, tmp_path)


@pytest.mark.parametrize(("key", "value", "same"), [
    ("origin", (10.0005, -20.0, 30.0), True), ("origin", (10.1, -20.0, 30.0), False),
    ("direction", (1, 1e-6, 0, -1e-6, 1, 0, 0, 0, 1), True), ("direction", (1, 1e-3, 0, -1e-3, 1, 0, 0, 0, 1), False),
    ("spacing", (0.8000001, 0.9, 2.0), True), ("spacing", (0.801, 0.9, 2.0), False)])
def test_headers_may_differ_by_rounding_only(key, value, same):
    shape = (60, 120, 180)
    image = {"spacing": (0.8, 0.9, 2.0), "origin": (10.0, -20.0, 30.0), "direction": (1, 0, 0, 0, 1, 0, 0, 0, 1)}
    assert (grid_difference(image, image | {key: value}, shape, shape) is None) == same


def quiz_labels(quiz) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(quiz.files("train", 0, 2)[1])))


# The same two traps with real CTs, where they are at hand.

def put_real_case(quiz, ct: str, seg: str) -> None:
    image, mask = quiz.files("train", 0, 2)
    shutil.copy(REALCT / ct, image)
    labels = sitk.ReadImage(str(REALCT / seg))
    sitk.WriteImage(sitk.Cast(sitk.Equal(labels, 7), sitk.sitkUInt8), str(mask), True)


@pytest.mark.skipif(not REALCT.is_dir(), reason="real CTs are not part of the repository; set REALCT")
class TestRealCTs:
    @pytest.mark.slow
    def test_mask_flipped_against_its_ct_is_refused_and_can_be_fixed(self, quiz, tmp_path):
        put_real_case(quiz, "example_ct_dicom_converted.nii.gz", "example_seg_dicom.nii.gz")
        assert "mm off" in refusal(quiz, tmp_path)
        out = run(quiz, tmp_path, fix_geometry=True)
        ct = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "imagesTr/quiz_0_002_0000.nii.gz")))
        mask = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "labelsTr/quiz_0_002.nii.gz")))
        assert round(ct[mask == 1].mean()) == 61

    @pytest.mark.slow
    def test_mask_of_a_part_with_the_whole_volumes_origin_is_refused_even_when_resampled(self, quiz, tmp_path):
        put_real_case(quiz, "example_ct.nii.gz", "example_seg.nii.gz")
        assert "(z, y, x) = (30, 101, 122) voxels, must have (112, 101, 122)" in refusal(quiz, tmp_path)
        assert "lies on gas or bone" in refusal(quiz, tmp_path, fix_geometry=True)

    @pytest.mark.slow
    def test_a_right_pair_passes(self, quiz, tmp_path):
        put_real_case(quiz, "example_ct_sm.nii.gz", "example_seg.nii.gz")
        run(quiz, tmp_path)


@pytest.mark.slow
def test_verify_finds_a_conversion_as_it_was_and_names_what_changed(quiz, tmp_path):
    out = run(quiz, tmp_path)
    assert not verify(out).misfits
    shutil.copy(quiz.root / "train" / "subtype0" / "quiz_0_002.nii.gz", quiz.root / "train" / "subtype0" / "quiz_0_001.nii.gz")
    with (quiz.root / "test" / "quiz_005_0000.nii.gz").open("ab") as file:
        file.write(b"x")
    (out / "subtypes.csv").write_text("case,subtype\n")
    misfits = "\n".join(verify(out).misfits)
    assert "test/quiz_005_0000.nii.gz changed" in misfits and "subtypes.csv is missing or was edited" in misfits


@pytest.mark.slow
def test_a_second_conversion_into_the_folder_is_refused(quiz, tmp_path):
    with folder_lock(tmp_path / "raw" / DATASET, "conversion", "by another"), pytest.raises(FolderBusy, match="by another"):
        run(quiz, tmp_path)


@pytest.mark.slow
def test_a_rerun_that_restores_a_file_leaves_the_content_as_it_was(quiz, tmp_path):
    out = run(quiz, tmp_path)
    before = content_key([out])
    (out / "imagesTr" / "quiz_0_001_0000.nii.gz").unlink()
    run(quiz, tmp_path)
    assert content_key([out]) == before
