import os
import stat
import zipfile
from types import SimpleNamespace

import pytest

from nnunetv2.model_sharing.model_export import export_pretrained_model
from nnunetv2.model_sharing.model_import import install_model_from_zip_file
from nnunetv2.utilities import zip_guard
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.folder_lock import FolderBusy, folder_lock

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


def test_a_fold_that_is_being_trained_is_not_installed_over(results, tmp_path):
    zip_file = export(tmp_path)
    (results / NAME / MODEL / "plans.json").write_text("old")
    with folder_lock(results / NAME / MODEL / "fold_1", "training", "fold 1 is trained"), pytest.raises(FolderBusy, match="fold_1"):
        install_model_from_zip_file(zip_file)
    assert (results / NAME / MODEL / "plans.json").read_text() == "old"


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
    with pytest.raises(ValueError, match="'link': link"):
        install_model_from_zip_file(tmp_path / "bad.zip")


@pytest.mark.parametrize("damage", [lambda content: content[:-30], lambda content: content.replace(b"fold_1/checkpoint_final.pth", b"fold_1/CHECKPOINT_final.pth", 1)])
def test_damaged_zip_changes_nothing(results, tmp_path, damage, monkeypatch):
    zip_file = export(tmp_path)
    zip_file.write_bytes(damage(zip_file.read_bytes()))
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "elsewhere"))
    with pytest.raises(ValueError, match="not a whole zip"):
        install_model_from_zip_file(zip_file)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def packed(path, *members, compression=zipfile.ZIP_DEFLATED):
    """A zip of (name, content)."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("name", [
    "plans.json", "other/plans.json", f"{NAME}/plans.json", f"{NAME}/folder/plans.json", f"{NAME}/{MODEL}/run.py", f"{NAME}/{MODEL}/fold_0/lib.so",
    f"{NAME}/{MODEL}/.hidden.json", f"{NAME}/{MODEL}/fold_0/a\nb.json", f"{NAME}/{MODEL}/fold_0/con.json", f"{NAME}/{MODEL}"])
def test_what_is_no_file_of_a_model_is_refused(results, tmp_path, name):
    bad = packed(tmp_path / "bad.zip", (f"{NAME}/{MODEL}/dataset.json", "new"), (name, "x"))
    with pytest.raises(InputError, match="1 more|not installed"):
        install_model_from_zip_file(bad)
    assert (results / NAME / MODEL / "dataset.json").read_text() == "dataset.json"


@pytest.mark.parametrize("name", [f"{NAME}/{MODEL}/plans.json", f"{NAME}/{MODEL}/fold_all/validation/summary.json", f"{NAME}/inference_information.json",
                                  f"{NAME}/ensembles/ensemble___a__b__c___d__e__f___0_1/postprocessing.pkl", f"{NAME}/{MODEL}/fold_0/validation/p 1.nii.gz"])
def test_files_of_a_model_are_installed(results, tmp_path, name):
    install_model_from_zip_file(packed(tmp_path / "good.zip", (name, "new")))
    assert (results / name).read_text() == "new"


@pytest.mark.parametrize("missing", ["plans.json", "dataset.json"])
def test_a_model_that_nobody_could_use_is_refused(results, tmp_path, missing):
    parts = [(f"Dataset999_New/{MODEL}/{name}", "x") for name in ("plans.json", "dataset.json", "fold_0/checkpoint_final.pth") if name != missing]
    with pytest.raises(InputError, match=f"Dataset999_New/{MODEL}/{missing} is missing"):
        install_model_from_zip_file(packed(tmp_path / "bad.zip", *parts))


def test_an_empty_archive_is_no_model(results, tmp_path):
    with pytest.raises(InputError, match="holds no file of a model"):
        install_model_from_zip_file(packed(tmp_path / "bad.zip"))


def test_a_pipe_is_not_waited_for(results, tmp_path):
    os.mkfifo(tmp_path / "pipe.zip")
    with pytest.raises(InputError, match="no regular file"):
        install_model_from_zip_file(tmp_path / "pipe.zip")


def test_litter_of_file_managers_is_left_out(results, tmp_path):
    install_model_from_zip_file(packed(tmp_path / "good.zip", (f"{NAME}/{MODEL}/plans.json", "new"), ("__MACOSX/x", ""), (f"{NAME}/.DS_Store", "")))
    assert not list(results.rglob("*MACOSX*")) and not list(results.rglob(".DS_Store"))


@pytest.mark.parametrize("second", [f"{NAME}/{MODEL}/PLANS.json", f"{NAME.upper()}/{MODEL}/plans.json", f"{NAME}/{MODEL}/plans.json/x.json"])
def test_members_that_would_be_one_file_are_refused(results, tmp_path, second):
    with pytest.raises(InputError):
        install_model_from_zip_file(packed(tmp_path / "bad.zip", (f"{NAME}/{MODEL}/plans.json", "a"), (second, "b")))


def test_encrypted_members_are_named(results, tmp_path):
    bad = packed(tmp_path / "bad.zip", (f"{NAME}/{MODEL}/plans.json", "secret"))
    content = bytearray(bad.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    bad.write_bytes(content)
    with pytest.raises(InputError, match="plans.json.*encrypted"):
        install_model_from_zip_file(bad)


def test_unknown_compression_is_named(results, tmp_path):
    bad = packed(tmp_path / "bad.zip", (f"{NAME}/{MODEL}/plans.json", "x"))
    content = bytearray(bad.read_bytes())
    content[content.index(b"PK\x01\x02") + 10] = 97
    bad.write_bytes(content)
    with pytest.raises(InputError, match="plans.json.*method 97"):
        install_model_from_zip_file(bad)


def test_a_zip_bomb_is_refused_by_its_ratio(results, tmp_path, monkeypatch):
    monkeypatch.setattr(zip_guard, "RATIO_FROM", 2**20)
    with pytest.raises(InputError, match="would grow from"):
        install_model_from_zip_file(packed(tmp_path / "bomb.zip", (f"{NAME}/{MODEL}/a.json", bytes(2**21))))


def test_many_small_members_that_grow_are_refused(results, tmp_path, monkeypatch):
    monkeypatch.setattr(zip_guard, "RATIO_FROM", 2**20)
    with pytest.raises(InputError, match="it would grow from"):
        install_model_from_zip_file(packed(tmp_path / "bomb.zip", *((f"{NAME}/{MODEL}/{i}.json", bytes(2**18)) for i in range(8))))


def test_more_than_the_disk_holds_is_refused(results, tmp_path, monkeypatch):
    monkeypatch.setattr(zip_guard.shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(InputError, match="free"):
        install_model_from_zip_file(packed(tmp_path / "large.zip", (f"{NAME}/{MODEL}/a.json", "x" * 11)))


def test_too_many_members_are_refused(results, tmp_path, monkeypatch):
    monkeypatch.setattr(zip_guard, "MAX_MEMBERS", 1)
    with pytest.raises(InputError, match="2 members"):
        install_model_from_zip_file(packed(tmp_path / "many.zip", (f"{NAME}/{MODEL}/a.json", ""), (f"{NAME}/{MODEL}/b.json", "")))


def test_a_model_is_not_packed_over_its_own_checkpoint(results):
    checkpoint = results / NAME / MODEL / "fold_0" / "checkpoint_final.pth"
    with pytest.raises(InputError, match="is one of the files to pack"):
        export_pretrained_model(NAME, checkpoint, ["3d_fullres"], folds=(0, 1))
    assert checkpoint.read_text() == "fold_0/checkpoint_final.pth"


@pytest.mark.parametrize(("year", "expected"), [(1970, (1980, 1, 1, 0, 0, 0)), (2200, (2107, 12, 31, 23, 59, 58))])
def test_times_that_no_zip_holds_become_the_nearest(results, tmp_path, year, expected):
    then = (year - 1970) * 365.25 * 86400 + 90 * 86400
    os.utime(results / NAME / MODEL / "plans.json", (then, then))
    packed = zipfile.ZipFile(export(tmp_path)).getinfo(f"{NAME}/{MODEL}/plans.json")
    assert packed.date_time[:5] == expected[:5]


def test_what_is_asked_for_twice_is_packed_once_and_installed(results, tmp_path, monkeypatch):
    zip_file = export(tmp_path, folds=(0, "0", 0, 1), configurations=["3d_fullres", "3d_fullres"], save_checkpoints=["checkpoint_final.pth"] * 2)
    assert len(zipfile.ZipFile(zip_file).namelist()) == len(members(zip_file)) == 5
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "elsewhere"))
    install_model_from_zip_file(zip_file)


def test_what_no_installation_takes_is_not_packed(results, tmp_path, monkeypatch, capsys):
    for name in ("notes.docx", "-a.nii.gz"):
        (results / NAME / MODEL / "fold_0" / "validation" / name).write_text("x")
    zip_file = export(tmp_path, export_crossval_predictions=True)
    assert "fold_0/validation/a.nii.gz" in members(zip_file) and not {"fold_0/validation/notes.docx", "fold_0/validation/-a.nii.gz"} & members(zip_file)
    assert "notes.docx: no file of a model" in (said := capsys.readouterr().err) and "-a.nii.gz' begins with '-'" in said
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "elsewhere"))
    install_model_from_zip_file(zip_file)


def test_a_checkpoint_that_no_installation_takes_is_named(results, tmp_path):
    (results / NAME / MODEL / "fold_0" / "checkpoint_x").write_text("x")
    with pytest.raises(InputError, match="checkpoint_x: no file of a model.*\\.pth"):
        export(tmp_path, folds=(0,), save_checkpoints=["checkpoint_x"])
    assert not (tmp_path / "model.zip").exists()


@pytest.mark.parametrize("taken", [f"{NAME}/{MODEL}/plans.json/", f"{NAME}/{MODEL}/fold_1/checkpoint_final.pth/", f"{NAME}", f"{NAME}/{MODEL}/fold_1"])
def test_a_place_that_is_taken_by_another_kind_is_named_and_nothing_is_changed(results, tmp_path, monkeypatch, taken):
    zip_file, target = export(tmp_path), tmp_path / "elsewhere"
    (target / taken).parent.mkdir(parents=True)
    (target / taken).mkdir() if taken.endswith("/") else (target / taken).write_text("x")
    before = sorted(target.rglob("*"))
    monkeypatch.setenv("nnUNet_results", str(target))
    with pytest.raises(InputError, match=f"{target / taken} is a {'folder' if taken.endswith('/') else 'file'}; move it away"):
        install_model_from_zip_file(zip_file)
    assert sorted(target.rglob("*")) == before


@pytest.mark.parametrize("written", [lambda name: name.replace("/", "\\"), lambda name: f"./{name}", lambda name: f".\\{name}"])
def test_names_as_other_programs_write_them_are_installed_in_their_folders(results, tmp_path, monkeypatch, written):
    with zipfile.ZipFile(export(tmp_path)) as source, zipfile.ZipFile(tmp_path / "other.zip", "w") as other:
        other.writestr("./", b"")
        for name in source.namelist():
            other.writestr(written(name), source.read(name))
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "elsewhere"))
    install_model_from_zip_file(tmp_path / "other.zip")
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == [NAME]
    assert (tmp_path / "elsewhere" / NAME / MODEL / "fold_1" / "checkpoint_final.pth").read_text() == "fold_1/checkpoint_final.pth"
