"""The closed-form layer against scikit-learn, known Gaussians and leaks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from dynamic_network_architectures.building_blocks.class_head import ClassHead
from nnunetv2.class_evidence.discriminant import fit_lda, fit_views
from nnunetv2.training.class_head_refit import left_out_logits, refit_head


def gaussians(n_per_class, n_features: int = 6, distance: float = 3.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Classes around random centres under one random covariance; features of very different scale and offset."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(n_per_class)), n_per_class)
    centres = distance * rng.normal(size=(len(n_per_class), n_features))
    features = (centres[labels] + rng.normal(size=(len(labels), n_features))) @ rng.normal(size=(n_features, n_features))
    return features * 10.0 ** rng.uniform(-3, 3, n_features) + rng.normal(size=n_features) * 50, labels


def test_layer_is_lda_of_standardised_features():
    features, labels = gaussians([20, 30, 25])
    standardised = (features - features.mean(0)) / features.std(0)
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=[1 / 3] * 3).fit(standardised, labels)
    np.testing.assert_allclose(fit_lda(features, labels, 3)(features), lda.decision_function(standardised), atol=1e-6)


def test_two_classes_get_two_opposite_logits_with_sklearns_difference():
    features, labels = gaussians([20, 30])
    standardised = (features - features.mean(0)) / features.std(0)
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=[0.5, 0.5]).fit(standardised, labels)
    logits = fit_lda(features, labels, 2)(features)
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], lda.decision_function(standardised), atol=1e-6)


def test_separated_gaussians_are_told_apart_on_new_samples():
    features, labels = gaussians([90] * 3)
    fitted, new = np.arange(len(labels)) % 3 > 0, np.arange(len(labels)) % 3 == 0
    predicted = fit_lda(features[fitted], labels[fitted], 3)(features[new]).argmax(1)
    assert (predicted == labels[new]).mean() > 0.95


def test_rare_class_keeps_its_half_of_the_axis():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [2000, 200])
    features = (2.0 * labels - 1 + rng.normal(size=2200))[:, None]  # centres -1 and 1
    layer = fit_lda(features, labels, 2)
    boundary = -(layer.bias[1] - layer.bias[0]) / (layer.weight[1, 0] - layer.weight[0, 0])
    assert boundary == pytest.approx(0, abs=0.1)  # with priors 10:1 it would lie at 1.15


def test_constant_feature_gets_no_weight():
    features, labels = gaussians([10, 10, 10])
    features[:, 2] = 7.0
    layer = fit_lda(features, labels, 3)
    assert np.abs(layer.weight[:, 2]).max() == 0
    assert np.isfinite(layer(features)).all()


def test_more_features_than_cases():
    features, labels = gaussians([8, 9, 10], n_features=200)
    assert (fit_lda(features, labels, 3)(features).argmax(1) == labels).all()


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_units_of_the_features_do_not_matter(seed):
    features, labels = gaussians([8, 8, 8], seed=seed)
    rng = np.random.default_rng(seed)
    scale, offset = 10.0 ** rng.uniform(-2, 2, 6), rng.normal(size=6)
    np.testing.assert_allclose(fit_lda(features * scale + offset, labels, 3)(features * scale + offset),
                               fit_lda(features, labels, 3)(features), atol=1e-5, rtol=1e-5)


def test_classes_with_too_few_cases_are_counted():
    features, labels = gaussians([5, 0, 5])
    with pytest.raises(ValueError, match=r"\[5, 0, 5\]"):
        fit_lda(features, labels, 3)
    features, labels = gaussians([1, 1, 1])
    with pytest.raises(ValueError, match=r"\[1, 1, 1\]"):
        fit_lda(features, labels, 3)


@pytest.mark.parametrize("n", [1, 2])
def test_a_class_of_few_cases_is_fitted(n):
    features, labels = gaussians([9, n, 9])
    assert (fit_lda(features, labels, 3)(features).argmax(1) == labels).mean() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2])
def test_the_only_case_of_a_class_is_not_left_out(n):
    features, labels = gaussians([5, n, 5])
    left_out = np.isfinite(left_out_logits(features[:, None], labels, 3)).all(1)
    assert left_out[labels != 1].all() and left_out[labels == 1].all() == (n == 2)


@pytest.mark.slow
def test_a_head_is_refitted_and_calibrated_with_a_class_of_one_case():
    head = ClassHead([2], [(1, 1, 1)], 3, n_classes=3, lesion_labels=[2], regions={"lesion": [2]}, stages=[0], descriptors=False)
    features, labels = gaussians([9, 1, 9], n_features=4)
    report = refit_head(head, torch.from_numpy(features).float()[:, None], labels)
    assert report["cases_per_class"] == [9, 1, 9] and np.isfinite(report["temperature"]) and np.isfinite(report["leave_one_out"]["macro_f1"])


@pytest.mark.slow
def test_left_out_logits_of_noise_are_at_chance():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(150, 300)), np.arange(150) % 3
    assert (fit_lda(features, labels, 3)(features).argmax(1) == labels).mean() > 0.9  # what a leak would look like
    assert (left_out_logits(features[:, None], labels, 3).argmax(1) == labels).mean() < 0.45


@pytest.mark.slow
def test_left_out_logits_are_those_of_a_fit_to_the_others():
    features, labels = gaussians([6, 7, 8])
    views = np.stack([features, features + 0.1], 1)
    others = np.arange(21) != 3
    np.testing.assert_allclose(left_out_logits(views, labels, 3)[3], fit_views(views[others], labels[others], 3)(views[3]).mean(0))


@pytest.mark.slow
def test_held_out_cases_are_judged_by_the_mean_of_their_views():
    """Views at +d and -d around the case: each alone is far off, their mean is the case."""
    features, labels = gaussians([12, 12, 12])
    shift = np.random.default_rng(1).normal(size=features.shape)
    views = np.stack([features + shift, features - shift], 1)
    fit_on_rest = fit_views(views, labels, 3)
    np.testing.assert_allclose(fit_on_rest(views).mean(1), fit_on_rest(features), atol=1e-9)
    assert (left_out_logits(views, labels, 3).argmax(1) == labels).mean() > 0.8


def test_directions_that_mirroring_moves_lose_weight():
    """Two equally good features; mirroring scatters the second one only."""
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 2
    features = labels[:, None] + 0.5 * rng.normal(size=(300, 2))
    views = np.stack([features, features + [0, 3], features - [0, 3]], 1)
    weight = np.abs(fit_views(views, labels, 2).weight[1])
    assert weight[1] < 0.2 * weight[0]


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [0, 4])
def test_refitted_head_computes_the_calibrated_lda(hidden):
    torch.manual_seed(0)
    head = ClassHead([2], [(1, 1, 1)], 3, n_classes=3, lesion_labels=[2], regions={"lesion": [2]}, stages=[0], descriptors=False,
                     hidden=hidden)
    assert head.n_features == 4
    head.standardiser.mean.fill_(0.3)
    head.standardiser.variance.fill_(2.0)
    features, labels = gaussians([20, 15, 10], n_features=4)
    features = torch.from_numpy((features - features.mean(0)) / features.std(0)).float()
    report = refit_head(head, features[:, None], labels)
    with torch.no_grad():
        represented = head.represent(features).double().numpy()
        logits = head.classify(features).numpy()
    np.testing.assert_allclose(logits * report["temperature"], fit_lda(represented, labels, 3)(represented), rtol=1e-3, atol=1e-3)
    assert head.temperature.item() == pytest.approx(report["temperature"])
    assert report["cases_per_class"] == [20, 15, 10]
