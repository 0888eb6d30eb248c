import os
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from data_prep.make_phantom import make_phantom
from data_prep.quiz_layout import scan_quiz
from nnunetv2.imageio.mask_statistics import MIN_CASES, MaskStatistics, mask_statistics, outliers
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, read_volume

REALCT = Path(os.environ.get("REALCT", Path(__file__).resolve().parents[3] / "shared" / "realct"))
ALIKE = {f"case_{i}": MaskStatistics(60 + i, 35 + i, 90 - i) for i in range(8)}


def test_statistics_of_a_cube_in_fat():
    image = np.full((9, 9, 9), -100.0)
    mask = np.zeros(image.shape, bool)
    mask[3:6, 3:6, 3:6] = True
    image[mask] = 40
    image[3, 3:6, 3:6] = 70
    assert mask_statistics(image, mask) == MaskStatistics(pytest.approx(50), pytest.approx(np.sqrt(200)), pytest.approx(150))


@pytest.mark.parametrize("value", [False, True])
def test_empty_and_full_masks_have_none(value):
    assert mask_statistics(np.zeros((3, 3, 3)), np.full((3, 3, 3), value)) is None


def test_cases_that_are_alike_are_not_flagged():
    assert outliers(ALIKE) == []


@pytest.mark.parametrize("odd", [MaskStatistics(60, 75, 90), MaskStatistics(-60, 38, 90), MaskStatistics(60, 38, -30)], ids=["spread", "mean", "step"])
def test_case_that_differs_is_flagged_by_name_and_number(odd):
    lines = outliers(ALIKE | {"odd": odd})
    assert len(lines) == 1 and lines[0].startswith("odd: ") and "robust z" in lines[0]


def test_a_few_cases_have_no_outlier():
    assert outliers({f"{i}": MaskStatistics(60, 35 + 100 * i, 90) for i in range(MIN_CASES - 1)}) == []


@pytest.mark.slow
def test_masks_flipped_in_content_stand_out_among_phantoms(tmp_path):
    make_phantom(tmp_path, "demo", counts=(9, 3, 1), processes=1)
    statistics, flipped = {}, {}
    for case in (case for case in scan_quiz(tmp_path)[0] if case.mask is not None):
        image, mask = read_volume(case.image)[0], SimpleITKIO().read_seg(case.mask)[0][0] > 0
        statistics[case.name], flipped[case.name] = mask_statistics(image, mask), mask_statistics(image, mask[:, ::-1])
    assert outliers(statistics) == []
    found = [case for case in flipped if any(line.startswith(case) for line in outliers(statistics | {case: flipped[case]}))]
    assert len(found) >= 0.9 * len(flipped)


@pytest.mark.slow
@pytest.mark.skipif(not REALCT.is_dir(), reason="real CTs are not part of the repository; set REALCT")
def test_real_mask_paired_in_voxels_with_its_flipped_ct_stands_out():
    image, true = read_volume(REALCT / "example_ct_dicom_converted.nii.gz")[0], read_volume(REALCT / "example_seg_dicom.nii.gz")[0] == 7
    right = true[:, ::-1]  # the file is stored flipped in y against the CT
    parts = {"whole": right, "thin": ndimage.binary_erosion(right, np.ones((1, 3, 3))), "even": right & (np.arange(right.shape[2]) % 2 == 0),
             "odd": right & (np.arange(right.shape[2]) % 2 == 1), "rows": right & (np.arange(right.shape[1])[:, None] % 3 > 0),
             "columns": right & (np.arange(right.shape[2]) % 3 > 0)}  # one patient's pancreas stands for six
    statistics = {name: mask_statistics(image, part) for name, part in parts.items()}
    lines = outliers(statistics | {"flipped": mask_statistics(image, true)})
    assert any(line.startswith("flipped: ") for line in lines) and all(line.startswith("flipped: ") for line in lines)
