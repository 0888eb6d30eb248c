import os
from pathlib import Path

import pytest

from nnunetv2 import configuration, paths
from nnunetv2.utilities.dataset_files import (
    create_lists_from_splitted_dataset_folder, get_filenames_of_train_images_and_targets, get_output_folder)
from nnunetv2.utilities.dataset_name_id_conversion import convert_dataset_name_to_id, maybe_convert_to_dataset_name


def test_paths_follow_the_environment_after_import(monkeypatch, tmp_path):
    for folder in ("one", "two"):
        monkeypatch.setenv("nnUNet_raw", str(tmp_path / folder))
        assert paths.nnUNet_raw == tmp_path / folder


def test_unset_path_names_its_variable_and_the_export_line(monkeypatch):
    monkeypatch.delenv("nnUNet_results", raising=False)
    for use in (os.fspath, str, Path, lambda folder: folder / "Dataset001_A", lambda folder: folder.is_dir(), lambda folder: os.path.join(folder, "a")):
        with pytest.raises(ValueError, match="export nnUNet_results="):
            use(paths.nnUNet_results)
    assert not paths.nnUNet_results and paths.nnUNet_results == None and not hasattr(paths.nnUNet_results, "append")  # noqa: E711


def test_a_folder_that_was_imported_before_its_variable_is_set_follows_it(monkeypatch, tmp_path):
    monkeypatch.delenv("nnUNet_results", raising=False)
    from nnunetv2.paths import nnUNet_results

    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    assert nnUNet_results and nnUNet_results.is_dir() and nnUNet_results / "a" == tmp_path / "a" and nnUNet_results == str(tmp_path) != str(nnUNet_results / "a")


def test_a_tilde_that_no_shell_replaced_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("nnUNet_raw", "~/raw")
    assert paths.nnUNet_raw / "a" == tmp_path / "raw" / "a" and paths.path_if_set("nnUNet_raw") == tmp_path / "raw" and str(paths.nnUNet_raw) == f"{tmp_path}/raw"
    (tmp_path / "raw" / "Dataset007_Heart").mkdir(parents=True)
    assert maybe_convert_to_dataset_name(7) == "Dataset007_Heart"


def test_default_process_counts_do_not_exceed_the_cores(monkeypatch):
    monkeypatch.delenv("some_count", raising=False)
    assert configuration.process_count("some_count", 10_000) == configuration.available_cores() <= os.cpu_count()


def test_process_count_of_the_environment_wins(monkeypatch):
    monkeypatch.setenv("some_count", "37")
    assert configuration.process_count("some_count", 8) == 37


def test_an_empty_process_count_is_an_unset_one(monkeypatch):
    monkeypatch.setenv("some_count", "")
    assert configuration.process_count("some_count", 1) == 1


def _groups(root, groups, files):
    """proc and sys of a machine in miniature: what /proc/self/cgroup says, and files of control groups."""
    for path, text in ({"proc/self/cgroup": groups} | {f"sys/fs/cgroup/{name}": text for name, text in files.items()}).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


@pytest.mark.parametrize("groups, files, cores", [
    ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),  # docker --cpus=2: the container's own group is at the top
    ("0::/\n", {"cpu.max": "max 100000\n"}, None),
    ("0::/a/b\n", {"a/cpu.max": "150000 100000\n", "a/b/cpu.max": "400000 100000\n"}, 2),  # rounded up; the smallest of all above counts
    ("0::/../../other\n", {"cpu.max": "50000 100000\n"}, 1),
    ("4:memory:/x\n3:cpu,cpuacct:/x\n", {"cpu,cpuacct/x/cpu.cfs_quota_us": "350000", "cpu,cpuacct/x/cpu.cfs_period_us": "100000"}, 4),
    ("3:cpu,cpuacct:/docker/0123\n", {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),  # not mounted by its path
    ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
    ("broken", {"cpu.max": "200000 100000\n"}, None),
    ("0::/\n", {"cpu.max": ""}, None)])
def test_a_control_groups_quota_of_cores(tmp_path, groups, files, cores):
    assert configuration.cpu_quota(_groups(tmp_path, groups, files)) == cores


def test_a_quota_bounds_the_cores_and_no_more(monkeypatch):
    monkeypatch.setattr(configuration, "cpu_quota", lambda: 1)
    assert configuration.available_cores() == 1
    monkeypatch.setattr(configuration, "cpu_quota", lambda: 10_000)
    assert configuration.available_cores() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("value", ["0", "-1", "two"])
def test_process_count_that_is_none_is_refused(monkeypatch, value):
    monkeypatch.setenv("some_count", value)
    with pytest.raises(ValueError, match="some_count"):
        configuration.process_count("some_count", 8)


@pytest.mark.parametrize("given", [7, "7", "007", "Dataset007_Heart"])
def test_dataset_is_found_by_number_and_name(data_folders, given):
    (data_folders / "nnUNet_results" / "Dataset007_Heart").mkdir()
    (data_folders / "nnUNet_results" / "Dataset0071_Other").mkdir()
    assert maybe_convert_to_dataset_name(given) == "Dataset007_Heart"


@pytest.mark.parametrize("name", ["Dataset007", "Dataset007Heart"])
def test_a_dataset_is_found_by_number_without_an_underscore_in_its_name(data_folders, name):
    (data_folders / "nnUNet_results" / name).mkdir()
    (data_folders / "nnUNet_results" / "Dataset0071").mkdir()
    assert maybe_convert_to_dataset_name(7) == name


def test_number_without_a_dataset_lists_the_folders_searched(data_folders):
    with pytest.raises(FileNotFoundError, match=str(data_folders / "nnUNet_raw")):
        maybe_convert_to_dataset_name(8)


def test_number_of_two_datasets_is_refused(data_folders):
    for folder, name in (("nnUNet_raw", "Dataset007_Heart"), ("nnUNet_preprocessed", "Dataset007_Liver")):
        (data_folders / folder / name).mkdir()
    with pytest.raises(ValueError, match="Dataset007_Heart, Dataset007_Liver"):
        maybe_convert_to_dataset_name(7)


def test_word_that_is_no_dataset_is_refused():
    with pytest.raises(ValueError, match="heart"):
        maybe_convert_to_dataset_name("heart")


def test_number_of_a_dataset_name():
    assert convert_dataset_name_to_id("Dataset042_Answer") == 42


def test_model_folder_follows_upstreams_layout(data_folders):
    folder = get_output_folder("Dataset007_Heart", "nnUNetTrainer", "nnUNetResEncUNetMPlans", "3d_fullres", 0)
    assert folder == data_folders / "nnUNet_results/Dataset007_Heart/nnUNetTrainer__nnUNetResEncUNetMPlans__3d_fullres/fold_0"


def test_channels_are_grouped_by_case_in_order(tmp_path):
    for name in ("b_0001.mha", "b_0000.mha", "a_2_0000.mha", "a_2_0001.mha", "notes.txt", ".b_0002.mha"):
        (tmp_path / name).touch()
    lists = create_lists_from_splitted_dataset_folder(tmp_path, ".mha")
    assert [[os.path.basename(file) for file in case] for case in lists] == [["a_2_0000.mha", "a_2_0001.mha"], ["b_0000.mha", "b_0001.mha"]]


def test_folder_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no file that ends in .nii.gz"):
        create_lists_from_splitted_dataset_folder(tmp_path, ".nii.gz")


def test_every_image_with_a_bad_name_is_listed(tmp_path):
    for name in ("scan.nii.gz", "x_0000.nii.gz", "x_0002.nii.gz", "mask_1.nii.gz"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"(?s)3 image.*mask_1\.nii.*scan_0000\.nii.*x has channels \[0, 2\]"):
        create_lists_from_splitted_dataset_folder(tmp_path, ".nii.gz")


def test_training_files_may_be_listed_in_dataset_json(tmp_path, monkeypatch):
    monkeypatch.setenv("ELSEWHERE", "/data")
    listed = {"k": {"images": ["img/k.mha", "$ELSEWHERE/k2.mha"], "label": "seg/k.mha"}}
    files = get_filenames_of_train_images_and_targets(tmp_path, {"file_ending": ".mha", "dataset": listed})
    assert files == {"k": {"images": [str(tmp_path / "img/k.mha"), "/data/k2.mha"], "label": str(tmp_path / "seg/k.mha")}}
    assert listed["k"]["label"] == "seg/k.mha"  # the caller's dictionary is left alone


def test_training_files_are_paired_by_case(dataset):
    files = get_filenames_of_train_images_and_targets(dataset.raw, dataset.json)
    assert list(files) == ["a", "b", "c"]
    assert files["b"] == {"images": [str(dataset.raw / "imagesTr/b_0000.nii.gz")], "label": str(dataset.raw / "labelsTr/b.nii.gz")}
