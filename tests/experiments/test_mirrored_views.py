import numpy as np
import pytest
import torch

from experiments import mirrored_views
from experiments.mirrored_views import main, mean_dsc, sets_of_views
from nnunetv2.preprocessing.case_store import save_case
from nnunetv2.utilities.file_shapes import AnyObject
from nnunetv2.utilities.files import load_json, save_json
from tests.inference.tiny_model import save_model, tiny_dataset_json, tiny_network, tiny_plans


def test_the_first_set_is_of_all_views_and_the_others_are_parts_of_it():
    sets = sets_of_views([0, 1, 2])
    everything, _ = next(iter(sets.values()))
    assert len(everything) == 8 and all(set(views) <= set(everything) for views, _ in sets.values())
    assert sets["2 views: all axes"] == ([(), (0, 1, 2)], ()) and sets["1 view, in turn with that along all axes"] == ([()], (0, 1, 2))


def test_mean_dsc_leaves_out_labels_that_are_nowhere():
    found, true = np.array([0, 1, 1, 2]), np.array([0, 1, 0, 2])
    assert mean_dsc(found, true, [1, 2, 3]) == pytest.approx((2 / 3 + 1) / 2)
    assert np.isnan(mean_dsc(found, true, [3]))


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A model folder, and the two preprocessed validation cases of its fold."""
    plans = tiny_plans()
    dataset = tmp_path / "preprocessed" / plans["dataset_name"]
    monkeypatch.setenv("nnUNet_preprocessed", str(dataset.parent))
    monkeypatch.setattr(mirrored_views, "environment", lambda device: {"CPU": "test"})
    for i in range(2):
        image = np.random.default_rng(i).normal(size=(1, 8, 16, 24)).astype(np.float32)
        save_case(image, np.ones(image.shape, np.int16), {"spacing": [2, 1, 1]}, dataset / "nnUNetPlans_3d_fullres", f"case_{i}")
    save_json([{"train": ["never_read"], "val": ["case_0", "case_1"]}], dataset / "splits_final.json")
    save_model(tmp_path / "model", plans, tiny_dataset_json(), [tiny_network()])
    return tmp_path / "model"


def test_each_set_is_scored_on_the_validation_cases(model, tmp_path):
    assert main([str(model), "0", "--out", str(tmp_path / "views")]) == 0
    result = load_json(tmp_path / "views.json", AnyObject)
    rows = list(result["rows"].values())
    assert result["n"] == 2 and result["synthetic"] and rows[0]["difference"] == {"mean": 0, "ci_low": 0, "ci_high": 0, "n": 2}
    assert len({row["dsc"]["mean"] for row in rows}) > 2, "the sets differ"
    assert "1 view, in turn with that along all axes | 1 |" in (tmp_path / "views.md").read_text()


@pytest.mark.parametrize("axes", [None, (2,)])
def test_a_model_without_sets_to_compare_is_named(model, axes):
    checkpoint = model / "fold_0" / "checkpoint_final.pth"
    torch.save(torch.load(checkpoint, weights_only=True) | {"inference_allowed_mirroring_axes": axes}, checkpoint)
    with pytest.raises(SystemExit, match=f"{model} was trained with {len(axes or ())} mirrored axes"):
        main([str(model), "0"])
