import stat
import zipfile

import pytest

from nnunetv2.model_sharing.model_export import export_pretrained_model
from nnunetv2.model_sharing.model_import import install_model_from_zip_file

NAME = "Dataset903_Shared"
MODEL = "nnUNetTrainer__nnUNetPlans__3d_fullres"


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A model with folds 0 and 1; returns nnUNet_results."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    folder = tmp_path / "nnUNet_results"
    for file in ("plans.json", "dataset.json", "fold_0/checkpoint_final.pth", "fold_0/checkpoint_best.pth", "fold_1/checkpoint_final.pth",
                 "fold_0/validation/summary.json", "fold_0/validation/a.nii.gz", "fold_0/validation/a.npz"):
        path = folder / NAME / MODEL / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file)
    return folder


def members(zip_file):
    return {name.removeprefix(f"{NAME}/{MODEL}/") for name in zipfile.ZipFile(zip_file).namelist()}


def export(tmp_path, **kwargs):
    export_pretrained_model(NAME, tmp_path / "model.zip", **{"configurations": ["3d_fullres"], "folds": (0, 1)} | kwargs)
    return tmp_path / "model.zip"


def test_export_holds_plans_checkpoints_and_scores(results, tmp_path):
    assert members(export(tmp_path)) == {"plans.json", "dataset.json", "fold_0/checkpoint_final.pth", "fold_1/checkpoint_final.pth",
                                         "fold_0/validation/summary.json"}


def test_export_with_predictions_leaves_out_probabilities(results, tmp_path):
    assert {"fold_0/validation/a.nii.gz"} == members(export(tmp_path, export_crossval_predictions=True)) - members(export(tmp_path))


def test_all_that_is_missing_is_named(results, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"(?s)2d.*fold_2.*fold_3"):
        export(tmp_path, configurations=["2d", "3d_fullres"], folds=(0, 2, 3))
    assert not (tmp_path / "model.zip").exists()


def test_not_strict_packs_what_is_there(results, tmp_path):
    assert "fold_0/checkpoint_final.pth" in members(export(tmp_path, configurations=["2d", "3d_fullres"], folds=(0, 2), strict=False))


def test_export_without_any_checkpoint_is_an_error(results, tmp_path):
    with pytest.raises(FileNotFoundError, match="No checkpoint"):
        export(tmp_path, folds=(7,), strict=False)


def test_round_trip(results, tmp_path, monkeypatch):
    zip_file = export(tmp_path)
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "elsewhere"))
    install_model_from_zip_file(zip_file)
    installed = tmp_path / "elsewhere" / NAME / MODEL / "fold_1" / "checkpoint_final.pth"
    assert installed.read_text() == "fold_1/checkpoint_final.pth"
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == [NAME], "nothing temporary is left"


def test_install_replaces_files_and_keeps_the_others(results, tmp_path):
    zip_file = export(tmp_path)
    (results / NAME / MODEL / "plans.json").write_text("old")
    install_model_from_zip_file(zip_file)
    assert (results / NAME / MODEL / "plans.json").read_text() == "plans.json"
    assert (results / NAME / MODEL / "fold_0" / "checkpoint_best.pth").exists()


@pytest.mark.parametrize("name", ["../outside.txt", "a/../../outside.txt", "/outside.txt", "\\outside.txt", "C:\\outside.txt", "a\\..\\..\\outside.txt"])
def test_members_outside_the_target_are_refused(results, tmp_path, name):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("good.txt", "good")
        archive.writestr(name, "bad")
    with pytest.raises(ValueError, match="outside.txt"):
        install_model_from_zip_file(tmp_path / "bad.zip")
    assert not (results / "good.txt").exists() and not list(tmp_path.rglob("*outside*"))


def test_links_are_refused(results, tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr(link, "/etc")
    with pytest.raises(ValueError, match="link: link"):
        install_model_from_zip_file(tmp_path / "bad.zip")


@pytest.mark.parametrize("damage", [lambda content: content[:-30], lambda content: content.replace(b"fold_1/checkpoint_final.pth", b"fold_1/CHECKPOINT_final.pth", 1)])
def test_damaged_zip_changes_nothing(results, tmp_path, damage, monkeypatch):
    zip_file = export(tmp_path)
    zip_file.write_bytes(damage(zip_file.read_bytes()))
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "elsewhere"))
    with pytest.raises(ValueError, match="not a whole zip"):
        install_model_from_zip_file(zip_file)
    assert list((tmp_path / "elsewhere").iterdir()) == []
