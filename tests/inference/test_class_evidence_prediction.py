"""A checkpoint with an evidence head: what prediction makes of it, against the same numbers put together by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.inference.tiny_model import save_model, smooth_ct, tiny_dataset_json, tiny_network, tiny_plans, write_image

from nnunetv2.class_evidence.blocks import BLOCKS, measure
from nnunetv2.class_evidence.head import EVIDENCE_KEY, EvidenceHead
from nnunetv2.inference.model_loading import find_model
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.checkpoint import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.slow

PROPERTIES = {"spacing": [2.0, 1.0, 1.0]}


def some_head(seed: int) -> EvidenceHead:
    """Random weights over the features of all blocks, as a case with a gland has them."""
    from tests.class_evidence.test_blocks import phantom

    rng = np.random.default_rng(seed)
    features = {name: tuple(values) for name, values in measure(phantom(), tuple(BLOCKS)).items()}
    n = sum(map(len, features.values()))
    return EvidenceHead(features, rng.normal(size=n), np.full(n, 0.02), rng.normal(size=(3, n)) / 10, rng.normal(size=3), np.array([0.5, 0.3, 0.2]), 0.7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("with_evidence")
    save_model(folder, tiny_plans(), tiny_dataset_json(), [tiny_network(seed=0), tiny_network(seed=1)])
    for fold in (0, 1):
        path = folder / f"fold_{fold}" / "checkpoint_final.pth"
        save_checkpoint(load_checkpoint(path) | {EVIDENCE_KEY: some_head(fold).to_checkpoint()}, path)
    return folder


def predictor(folder: Path, folds=(0, 1), **levers) -> nnUNetPredictor:
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, engine="torch", **levers)
    predictor.initialize_from_trained_model_folder(folder, folds)
    return predictor


@pytest.fixture(scope="module")
def data() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(1, 12, 30, 34)).astype(np.float32))


@pytest.mark.parametrize("levers", [{"mode": "exact"}, {"mode": "half"}, {"mode": "fast"}, {"mode": "exact", "tta": 1}])
@pytest.mark.parametrize("folds", [(0,), (0, 1)])
def test_the_class_is_that_of_the_evidence_in_the_predicted_masks(folder, data, levers, folds):
    ours = predictor(folder, folds, **levers)
    found = ours.case_predictor(data, properties=PROPERTIES)
    assert found.lesion_found
    ours.evidence = []
    by_fold = []
    for fold in folds:
        alone = predictor(folder, (fold,), **levers)
        alone.case_predictor.evidence, alone.case_predictor.measurement = [], None
        by_fold.append(alone.case_predictor(data, properties=PROPERTIES).class_probabilities)
    model = find_model(folder, folds)
    labels = found.full_logits(has_regions=False).argmax(0).numpy()
    measured = model.measurement()(data.numpy(), labels, PROPERTIES, tuple(BLOCKS))
    expected = np.mean([head.probabilities(measured, network) for head, network in zip(model.evidence_heads(), by_fold)], axis=0)
    np.testing.assert_allclose(found.class_probabilities, expected, atol=1e-4)


def test_without_a_lesion_the_training_shares_are_told_and_marked(folder, tmp_path, monkeypatch):
    write_image(tmp_path / "images" / "case_0_0000.nii.gz", smooth_ct(seed=0))
    ours = predictor(folder, (0,))
    monkeypatch.setattr(type(ours.case_predictor.measurement), "__call__", lambda *arguments: None)
    with pytest.warns(UserWarning, match="case_0: no lesion found"):
        ours.predict_from_files(tmp_path / "images", tmp_path / "out")
    assert (tmp_path / "out" / "subtype_probabilities.csv").read_text().splitlines()[1] == "case_0.nii.gz,0.500000,0.300000,0.200000,0"
    assert json.loads((tmp_path / "out" / "prediction_times.json").read_text())["no_lesion_found"] == ["case_0"]


def test_a_model_without_an_evidence_head_predicts_by_its_network(folder, data, tmp_path):
    save_model(tmp_path, tiny_plans(), tiny_dataset_json(), [tiny_network(seed=0)])
    found = predictor(tmp_path, (0,)).case_predictor(data)
    assert found.lesion_found is None and found.class_probabilities.sum() == pytest.approx(1)


def test_evidence_is_measured_beside_the_next_cases_network(folder, data):
    ours = predictor(folder, (0,))
    undecided = ours.case_predictor(data, properties=PROPERTIES, decide=False)
    assert undecided.lesion_found is None and undecided.class_probabilities.shape == (1, 3)  # of the network's own head, by fold
    found, expected = undecided.decided(), ours.case_predictor(data, properties=PROPERTIES)
    np.testing.assert_array_equal(found.class_probabilities, expected.class_probabilities)
    assert found.lesion_found is expected.lesion_found is True and found.decided() is found
