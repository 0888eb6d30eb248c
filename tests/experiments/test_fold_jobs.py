"""Folds inside the training cases."""

import pytest

from experiments.fold_jobs import held_out_images, refuse_absent_classes
from nnunetv2.utilities.errors import InputError


def test_a_class_that_a_fold_holds_out_as_a_whole_is_named_before_any_training():
    class_of = {"a": "low", "b": "low", "c": "high grade"}
    refuse_absent_classes({1: ["a", "c"], 2: ["b", "c", "unlabelled"]}, class_of)
    with pytest.raises(InputError, match=r"fold 2: none of class high grade\nfold 3: none of class low\n.*join it"):
        refuse_absent_classes({1: ["a", "c"], 2: ["a", "b"], 3: ["c"]}, class_of)


def test_held_out_images_are_those_of_the_cases_alone_and_of_every_channel(tmp_path):
    images = tmp_path / "imagesTr"
    images.mkdir()
    for name in ("a_0000.nii.gz", "a_0001.nii.gz", "a_b_0000.nii.gz", "[a]_0000.nrrd", "c_0000.nii.gz"):
        (images / name).write_text(name)
    for _ in range(2):  # what is there stays
        folder = held_out_images(tmp_path, ["a", "[a]"], tmp_path / "held_out")
    assert sorted(path.name for path in folder.iterdir()) == ["[a]_0000.nrrd", "a_0000.nii.gz", "a_0001.nii.gz"]
    assert (folder / "a_0001.nii.gz").read_text() == "a_0001.nii.gz"
