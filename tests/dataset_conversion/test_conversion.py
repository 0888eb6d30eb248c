"""Datasets from elsewhere become raw datasets, whole or not at all."""

import http.server
import json
import threading
import zipfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2.cli import datasets as commands
from nnunetv2.dataset_conversion.convert_MSD_dataset import convert_msd_dataset
from nnunetv2.dataset_conversion.convert_raw_dataset_from_old_nnunet_format import convert
from nnunetv2.dataset_conversion.generate_dataset_json import generate_dataset_json
from nnunetv2.experiment_planning.dataset_integrity import verify_dataset_integrity
from nnunetv2.experiment_planning.move_plans import move_plans_between_datasets
from nnunetv2.model_sharing.model_download import download_and_install_from_url
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.folder_lock import folder_lock
from nnunetv2.utilities.leftovers import _machine

HIPPOCAMPUS = Path(__file__).resolve().parents[3] / "shared" / "hippocampus"
DESCRIPTION = {"name": "Small", "labels": {"0": "background", "1": "organ"}, "modality": {"0": "T1", "1": "T2"}, "numTraining": 1, "numTest": 1,
               "tensorImageSize": "4D", "training": [], "test": []}


@pytest.fixture
def folders(tmp_path, monkeypatch):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    return tmp_path


def write(array, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array, isVector=False)
    image.SetSpacing((0.5, 0.75, 2.0, 1.0)[:image.GetDimension()])
    sitk.WriteImage(image, str(path))


@pytest.fixture
def decathlon(folders):
    """Task07_Small: one training and one test case of two channels each."""
    source = folders / "Task07_Small"
    for part in ("imagesTr", "imagesTs"):
        write(np.arange(2 * 3 * 4 * 5, dtype=np.int16).reshape(2, 3, 4, 5), source / part / "a_01.nii.gz")
    write((np.arange(60) > 30).astype(np.uint8).reshape(3, 4, 5), source / "labelsTr" / "a_01.nii.gz")
    (source / "imagesTr" / "._a_01.nii.gz").write_bytes(b"left by macOS")
    (source / "dataset.json").write_text(json.dumps(DESCRIPTION))
    return source


@pytest.mark.parametrize("name", ["Task07_Small", "task07_Small"])
def test_a_link_tells_its_task(decathlon, folders, name):
    decathlon.rename(folders / "download")
    (folders / name).symlink_to(folders / "download")
    assert convert_msd_dataset(folders / name) == "Dataset007_Small"


def test_a_4d_image_becomes_one_file_a_channel(decathlon, folders):
    assert convert_msd_dataset(decathlon) == "Dataset007_Small"
    raw = folders / "nnUNet_raw" / "Dataset007_Small"
    assert sorted(file.name for file in (raw / "imagesTr").iterdir()) == ["a_01_0000.nii.gz", "a_01_0001.nii.gz"]
    second = sitk.ReadImage(str(raw / "imagesTr" / "a_01_0001.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(second).ravel(), np.arange(60, 120)) and second.GetSpacing() == (0.5, 0.75, 2.0)
    verify_dataset_integrity(raw)


def test_the_description_is_brought_up_to_date(decathlon, folders):
    convert_msd_dataset(decathlon)
    found = json.loads((folders / "nnUNet_raw" / "Dataset007_Small" / "dataset.json").read_text())
    assert found == {"name": "Small", "numTraining": 1, "labels": {"background": 0, "organ": 1}, "channel_names": {"0": "T1", "1": "T2"}, "file_ending": ".nii.gz"}


def test_a_taken_number_is_refused_and_another_may_be_given(decathlon, folders):
    (folders / "nnUNet_results" / "Dataset007_Other").mkdir()
    with pytest.raises(InputError, match="Dataset007_Other"):
        convert_msd_dataset(decathlon)
    assert convert_msd_dataset(decathlon, 8) == "Dataset008_Small"


def test_files_without_a_partner_are_all_named_and_nothing_is_left(decathlon, folders):
    (decathlon / "labelsTr" / "a_01.nii.gz").rename(decathlon / "labelsTr" / "b.nii.gz")
    with pytest.raises(InputError, match=r"(?s)a_01.nii.gz has no label map.*b.nii.gz has no image"):
        convert_msd_dataset(decathlon)
    assert not list((folders / "nnUNet_raw").iterdir())


def test_an_image_that_cannot_be_read_leaves_nothing(decathlon, folders):
    (decathlon / "imagesTr" / "a_01.nii.gz").write_bytes(b"no image")
    with pytest.raises(Exception, match="a_01"):
        convert_msd_dataset(decathlon)
    assert not list((folders / "nnUNet_raw").iterdir())


@pytest.mark.parametrize("change", [{"labels": ["background"]}, {"labels": {"background": 0}}, {"modality": None}])
def test_a_description_of_another_shape_is_refused(decathlon, change):
    (decathlon / "dataset.json").write_text(json.dumps(DESCRIPTION | change))
    with pytest.raises(InputError, match="dataset.json"):
        convert_msd_dataset(decathlon)


@pytest.mark.slow
@pytest.mark.skipif(not HIPPOCAMPUS.is_dir(), reason=f"the Decathlon's hippocampus set is not at {HIPPOCAMPUS}")
def test_the_real_hippocampus_set_converts_as_it_lies(folders):
    assert convert_msd_dataset(HIPPOCAMPUS, 4) == "Dataset004_Hippocampus"
    raw = folders / "nnUNet_raw" / "Dataset004_Hippocampus"
    assert len(list((raw / "imagesTr").iterdir())) == len(list((raw / "labelsTr").iterdir())) == 260
    assert json.loads((raw / "dataset.json").read_text())["labels"] == {"background": 0, "Anterior": 1, "Posterior": 2}


def test_a_v1_dataset_is_copied_and_its_description_updated(decathlon, folders):
    convert(decathlon, "Dataset011_Old")
    raw = folders / "nnUNet_raw" / "Dataset011_Old"
    assert (raw / "imagesTs" / "a_01.nii.gz").is_file() and json.loads((raw / "dataset.json").read_text())["labels"] == {"background": 0, "organ": 1}


@pytest.mark.parametrize("name", ["Old", "../Dataset011_Old", "Dataset011_a/b"])
def test_a_v1_dataset_needs_a_dataset_name(decathlon, folders, name):
    with pytest.raises(ValueError, match="Old|a/b"):
        convert(decathlon, name)
    assert not list((folders / "nnUNet_raw").iterdir())


def test_plans_move_with_their_names(folders):
    source, target = folders / "nnUNet_preprocessed" / "Dataset001_A", folders / "nnUNet_raw" / "Dataset002_B"
    source.mkdir(), target.mkdir()
    (source / "nnUNetPlans.json").write_text(json.dumps({"dataset_name": "Dataset001_A", "plans_name": "nnUNetPlans", "image_reader_writer": "SimpleITKIO",
                                                         "configurations": {"2d": {"data_identifier": "nnUNetPlans_2d"}, "x": {"inherits_from": "2d"}}}))
    generate_dataset_json(target, {0: "CT"}, {"background": 0, "organ": 1}, 3, ".nii")
    move_plans_between_datasets(1, "Dataset002_B", "nnUNetPlans", "FromA")
    moved = json.loads((folders / "nnUNet_preprocessed" / "Dataset002_B" / "FromA.json").read_text())
    assert moved["dataset_name"] == "Dataset002_B" and moved["plans_name"] == "FromA" and moved["image_reader_writer"] == "NibabelIO"
    assert moved["configurations"] == {"2d": {"data_identifier": "FromA_2d"}, "x": {"inherits_from": "2d"}}


@pytest.mark.parametrize("source", [None, {"n_classes": 3, "lesion_labels": [1]}, {"n_classes": 2, "lesion_labels": [2]}, {"n_classes": 2, "lesion_labels": [1], "own": 1}])
@pytest.mark.parametrize("classifies", [True, False])
def test_moved_plans_have_the_class_head_of_their_new_dataset(folders, source, classifies):
    architecture = {"network_class_name": "x", "arch_kwargs": {}, "_kw_requires_import": []} | ({} if source is None else {"class_head": source})
    for path, content in ((folders / "nnUNet_preprocessed" / "Dataset001_A" / "nnUNetPlans.json", {"configurations": {"2d": {"architecture": architecture}}}),
                          (folders / "nnUNet_raw" / "Dataset002_B" / "dataset.json",
                           {"channel_names": {"0": "CT"}, "labels": {"background": 0, "lesion": 1}, "numTraining": 1, "file_ending": ".nii.gz"}
                           | ({"classification": {"name": "kind", "classes": ["a", "b"], "labels": "kinds.csv"}} if classifies else {}))):
        path.parent.mkdir()
        path.write_text(json.dumps(content))
    move_plans_between_datasets("Dataset001_A", "Dataset002_B", "nnUNetPlans")
    head = json.loads((folders / "nnUNet_preprocessed" / "Dataset002_B" / "nnUNetPlans.json").read_text())["configurations"]["2d"]["architecture"].get("class_head")
    assert (head is not None) == classifies
    if classifies:
        assert (head["n_classes"], head["lesion_labels"]) == (2, [1]) and ("own" in head) == (source is not None and "own" in source)


@pytest.mark.parametrize("name", ["dataset", "Dataset_Fingerprint", "splits_final", "manifest", "nnUNetPlans_2d.recipe"])
def test_plans_do_not_move_over_other_files(folders, name):
    with pytest.raises(InputError, match="-tp: plans .* is the name of something else"):
        move_plans_between_datasets("Dataset001_A", "Dataset002_B", "nnUNetPlans", name)


def test_plans_that_are_not_there_are_named(folders):
    with pytest.raises(SystemExit, match="nnUNetPlans.json does not exist"):
        commands.move_plans_between_datasets(["-s", "Dataset001_A", "-t", "Dataset002_B", "-sp", "nnUNetPlans"])


def test_regions_need_their_class_order(tmp_path):
    with pytest.raises(InputError, match="regions_class_order"):
        generate_dataset_json(tmp_path, {0: "CT"}, {"background": 0, "whole": (1, 2)}, 3, ".nii.gz")
    generate_dataset_json(tmp_path, {0: "CT"}, {"background": 0, "whole": (1, 2), "lesion": 2}, 3, ".nii.gz", regions_class_order=(1, 2), owner="we")
    found = json.loads((tmp_path / "dataset.json").read_text())
    assert found["labels"] == {"background": 0, "whole": [1, 2], "lesion": 2} and found["regions_class_order"] == [1, 2] and found["owner"] == "we"


@pytest.fixture
def served(tmp_path):
    """A packed model behind a local http server: (url, sha256)."""
    folder = tmp_path / "served"
    folder.mkdir()
    with zipfile.ZipFile(folder / "model.zip", "w") as archive:
        archive.writestr("Dataset001_A/nnUNetTrainer__nnUNetPlans__2d/plans.json", "{}")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/model.zip", sha256((folder / "model.zip").read_bytes()).hexdigest()
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_a_model_is_downloaded_and_installed(served, folders):
    url, checksum = served
    download_and_install_from_url(url, checksum)
    results = folders / "nnUNet_results"
    assert [path.name for path in results.iterdir()] == ["Dataset001_A"]
    assert (results / "Dataset001_A" / "nnUNetTrainer__nnUNetPlans__2d" / "plans.json").read_text() == "{}"


@pytest.mark.slow
def test_a_file_with_another_checksum_is_not_installed(served, folders):
    with pytest.raises(InputError, match="SHA-256"):
        download_and_install_from_url(served[0], "0" * 64)
    assert not list((folders / "nnUNet_results").iterdir())


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x/y.zip", "model.zip"])
def test_other_addresses_are_refused(folders, url):
    with pytest.raises(InputError, match="http"):
        download_and_install_from_url(url)


def test_an_address_that_does_not_answer_is_one_line(folders):
    with pytest.raises(SystemExit, match="error: "):
        commands.download_pretrained_model_by_url(["http://127.0.0.1:9/model.zip"])


def test_leftovers_of_a_killed_conversion_are_deleted_even_when_the_dataset_is_there(decathlon, folders):
    convert_msd_dataset(decathlon)
    dead = folders / "nnUNet_raw" / f".convert.{_machine()}7fffffff{'0' * 7}1{'0' * 8}"
    (dead / "Dataset007_Small").mkdir(parents=True)
    with pytest.raises(InputError, match="number 7 is taken by"):
        convert_msd_dataset(decathlon)
    assert [entry.name for entry in (folders / "nnUNet_raw").iterdir()] == ["Dataset007_Small"]


def test_two_conversions_to_one_number_are_kept_apart(decathlon, folders):
    with folder_lock(folders / "nnUNet_raw", "dataset_007", "it is made by another"):
        with pytest.raises(InputError, match="in use by another run"):
            convert_msd_dataset(decathlon)
    assert convert_msd_dataset(decathlon) == "Dataset007_Small"
