"""A cascade's second stage: the masks of the first belong to their images, or nothing is computed from them."""

import shutil

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunetv2.inference.pipeline import CasesFailed
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from tests.inference.tiny_model import ARCHITECTURE, save_model, smooth_ct, tiny_dataset_json, tiny_plans

N = 2


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cascade")
    plans = tiny_plans(class_head=False)
    plans["configurations"]["3d_lowres"] = plans["configurations"]["3d_fullres"] | {"next_stage": "3d_fullres"}
    plans["configurations"]["3d_fullres"]["previous_stage"] = "3d_lowres"
    torch.manual_seed(0)
    network = get_network_from_plans(ARCHITECTURE["network_class_name"], ARCHITECTURE["arch_kwargs"], ARCHITECTURE["_kw_requires_import"], 3, 3, deep_supervision=False)
    save_model(folder, plans, tiny_dataset_json(), [network])
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, engine="torch", tta=1)
    predictor.initialize_from_trained_model_folder(folder, (0,))
    return predictor


@pytest.fixture
def files(tmp_path):
    """Folders `images` and `stage` of N cases."""
    for name in ("images", "stage"):
        (tmp_path / name).mkdir()
    for i in range(N):
        image = sitk.GetImageFromArray(smooth_ct(seed=i))
        image.SetSpacing((0.9, 0.9, 2.5))
        sitk.WriteImage(image, str(tmp_path / "images" / f"c{i}_0000.nii.gz"))
        sitk.WriteImage(sitk.Cast((image > 60) + (image > 120), sitk.sitkUInt8), str(tmp_path / "stage" / f"c{i}.nii.gz"))
    return tmp_path


def predict(predictor, files, out="out", **arguments):
    return predictor.predict_from_files(files / "images", None if out is None else files / out, folder_with_segs_from_prev_stage=files / "stage", **arguments)


def move(mask):
    mask.SetOrigin((5.0, 0.0, 0.0))
    return mask


def flip(mask):
    mask.SetDirection((-1, 0, 0, 0, 1, 0, 0, 0, 1))
    return mask


def stretch(mask):
    mask.SetSpacing((0.9, 0.9, 5.0))
    return mask


@pytest.mark.slow
@pytest.mark.parametrize(("change", "problem"), [
    (move, "mm off"), (flip, "mm off"), (stretch, "mm off"), (lambda mask: mask[:, :, 1:], "voxels, must have"), (lambda mask: mask * 5, "has the labels")])
def test_a_mask_that_does_not_belong_to_its_image_is_refused_by_name(predictor, files, change, problem):
    wrong = files / "stage" / "c1.nii.gz"
    sitk.WriteImage(change(sitk.ReadImage(str(wrong))), str(wrong))
    with pytest.raises(CasesFailed) as failed:
        predict(predictor, files)
    message, = map(str, failed.value.failures.values())
    assert str(wrong) in message and problem in message
    assert (files / "out" / "c0.nii.gz").is_file()


@pytest.mark.slow
def test_an_images_mask_in_memory_has_to_lie_on_it(predictor, files):
    image, mask = (sitk.ReadImage(str(files / name)) for name in ("images/c0_0000.nii.gz", "stage/c0.nii.gz"))
    expected, *_ = predict(predictor, files, None)
    assert np.array_equal(predictor.predict_sitk_images(image, mask).mask, expected)
    with pytest.raises(InputError, match="previous_stage.*mm off"):
        predictor.predict_sitk_images(image, move(mask))


@pytest.mark.slow
def test_going_on_notices_that_a_stages_mask_has_changed(predictor, files, capsys):
    predict(predictor, files)
    predict(predictor, files, overwrite=False)
    shutil.copy(files / "stage" / "c0.nii.gz", files / "stage" / "c1.nii.gz")
    predict(predictor, files, overwrite=False)
    said = [line for line in capsys.readouterr().out.splitlines() if "to predict" in line]
    assert [line.split()[0] for line in said] == ["2", "0", "1"]


def test_the_stages_masks_are_not_written_over(predictor, files):
    before = (files / "stage" / "c0.nii.gz").read_bytes()
    with pytest.raises(InputError, match=r"(?s)2 result\(s\).*over the previous stage's mask"):
        predict(predictor, files, "stage")
    assert (files / "stage" / "c0.nii.gz").read_bytes() == before
