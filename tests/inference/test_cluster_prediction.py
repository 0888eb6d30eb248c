"""A prediction in parts on a cluster's workers is the prediction made here."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2.cli.inference import predict_from_modelfolder

pytestmark = pytest.mark.slow


@pytest.fixture
def images(image_folder, tmp_path):
    return Path(shutil.copytree(image_folder, tmp_path / "images"))


def flags(images, out, model):
    return ["-i", str(images), "-o", str(out), "-m", str(model), "-f", "0", "-device", "cpu", "--engine", "torch", "--disable_tta"]


def test_masks_and_tables_are_the_same(scheduler, images, model_folder, tmp_path):
    predict_from_modelfolder(flags(images, tmp_path / "here", model_folder))
    predict_from_modelfolder([*flags(images, tmp_path / "there", model_folder), "--scheduler", scheduler])
    masks = sorted(path.name for path in (tmp_path / "here").glob("*.nii.gz"))
    assert len(masks) == len(list(images.iterdir())) and masks == sorted(path.name for path in (tmp_path / "there").glob("*.nii.gz"))
    for name in masks:
        a, b = (sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / side / name)) for side in ("here", "there"))
        assert np.array_equal(a, b)
    for table in ("subtype_results.csv", "subtype_probabilities.csv"):
        assert (tmp_path / "here" / table).read_text() == (tmp_path / "there" / table).read_text()


def test_a_bad_case_is_named_and_the_others_are_there(scheduler, images, model_folder, tmp_path, capsys):
    bad = sorted(images.iterdir())[0]
    bad.write_bytes(bad.read_bytes()[:100])
    with pytest.raises(SystemExit) as ended:
        predict_from_modelfolder([*flags(images, tmp_path / "out", model_folder), "--scheduler", scheduler])
    said = str(ended.value.code)
    assert bad.name in said and "--continue_prediction" in said
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == len(list(images.iterdir())) - 1


def test_parts_and_a_scheduler_contradict_each_other(images, model_folder, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        predict_from_modelfolder([*flags(images, tmp_path / "out", model_folder), "--scheduler", "local", "-num_parts", "2"])
    assert "leave -num_parts out" in capsys.readouterr().err
