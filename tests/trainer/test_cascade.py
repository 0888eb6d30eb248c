"""A cascade: the first stage leaves its segmentations for the second, which trains, validates and predicts with them."""

import shutil
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunetv2.preprocessing import case_store
from nnunetv2.training.class_head_refit import refit_class_head, refit_trained
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels

ONE_EPOCH = {"num_epochs": 1, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1, "num_workers": 0}


@pytest.fixture
def cascade(folders, preprocessed_template, plans, dataset_json, tmp_path, monkeypatch):
    """make(configuration) -> trainer; 3d_lowres shares the preprocessed data of 3d_fullres, so grids are equal."""
    monkeypatch.setattr("nnunetv2.training.logging.draw_progress", lambda values, path: None)
    shutil.copytree(preprocessed_template, tmp_path / "preprocessed", dirs_exist_ok=True)
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    configurations = plans["configurations"]
    configurations["3d_fullres"]["architecture"]["class_head"]["texture_of_channels"] = 1  # as planned: of the image, not of the labels on top of it
    configurations["3d_lowres"] = deepcopy(configurations["3d_fullres"]) | {"next_stage": "3d_cascade_fullres"}
    configurations["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}

    def make(configuration):
        trainer = nnUNetTrainer(deepcopy(plans), configuration, 0, deepcopy(dataset_json), torch.device("cpu"))
        for name, value in ONE_EPOCH.items():
            setattr(trainer, name, value)
        return trainer

    return make


@pytest.mark.slow
def test_validation_of_the_first_stage_writes_what_the_second_reads(cascade):
    first = cascade("3d_lowres")
    first.run_training()
    first.perform_actual_validation()
    folder = Path(first.output_folder_base) / "predicted_next_stage" / "3d_cascade_fullres"
    assert sorted(path.name for path in folder.iterdir()) == ["case_6.b2nd", "case_7.b2nd"]
    found = case_store.load_seg(folder, "case_6")[:]
    assert found.shape == case_store.load_case(Path(first.preprocessed_dataset_folder), "case_6")[0].shape[1:] and set(np.unique(found)) <= {0, 1, 2}


@pytest.mark.slow
def test_the_second_stage_trains_on_the_image_and_one_channel_per_label(cascade):
    second = cascade("3d_cascade_fullres")
    folder = Path(second.folder_with_segs_from_previous_stage)
    for i in range(8):
        seg = case_store.load_case(Path(second.preprocessed_dataset_folder), f"case_{i}")[1][0]
        case_store.save_seg(np.maximum(seg, 0).astype(np.uint8), folder, f"case_{i}")
    assert determine_num_input_channels(second.plans_manager, second.configuration_manager, second.dataset_json) == 3
    second.run_training()
    batch = second.dataloader_val.batches.batch(0, 0)
    assert batch["data"].shape[1] == 3
    assert torch.equal(batch["data"][:, 2:3] > 0, batch["target"][0] == 2)  # what came before is the truth here, and is not damaged in validation
    second.perform_actual_validation()
    assert len(list((Path(second.output_folder) / "validation").glob("*.nii.gz"))) == 2
    assert refit_trained(second.output_folder_base, 0, torch.device("cpu"))[0]["cases_per_class"] == [2, 2, 2]
    (folder / "case_1.b2nd").unlink()
    with pytest.raises(InputError, match="predicted_next_stage/3d_cascade_fullres lacks 1 of 6 training cases: case_1. Validate the folds"):
        refit_class_head(second.output_folder_base, 0)


def test_a_second_stage_without_the_first_says_what_to_do(cascade):
    with pytest.raises(ValueError, match="(?s)3d_cascade_fullres.*case_.*Train and validate the previous stage"):
        cascade("3d_cascade_fullres").run_training()
