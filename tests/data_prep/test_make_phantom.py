"""make_phantom: layout, determinism, and that subtypes differ in texture but not in size or mean attenuation."""

import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_prep.check_dataset import check_dataset
from data_prep.make_phantom import ALMOST_ONE, PRESETS, PROPORTIONS, case_files, list_cases, make_phantom, render, share_out
from data_prep.phantom_worlds import ct_noise
from data_prep.phantom_anatomy import Canvas, SmoothNoise, curve
from evaluation.lesion_features import MARGIN, NAMES, TEXTURE, lesion_features
from experiments.stage import content_key

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def smoke(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("phantom") / "data"
    make_phantom(out, "smoke", seed=3, processes=1)
    return out


def test_smoke_passes_every_check_of_real_data(smoke):
    inspections, problems = check_dataset(smoke, processes=1)
    assert problems == []
    assert len(inspections) == sum(PRESETS["smoke"].cases)
    assert all(found.volumes_ml["lesion"] > 1 for found in inspections if found.case.mask is not None)


def test_test_set_shows_images_only_and_its_truth_lies_apart(smoke):
    shown = {file.name for file in (smoke / "test").iterdir()}
    assert all(name.count("_") == 2 and name.endswith("_0000.nii.gz") for name in shown)  # quiz_NNN_0000: no subtype in it
    truth = {file.name for file in (smoke / "test_truth").iterdir()}
    assert truth == {name.replace("_0000", "") for name in shown} | {"subtypes.csv"}


def test_folder_says_that_it_is_synthetic(smoke):
    assert (smoke / "SYNTHETIC.txt").is_file()


def test_a_killed_run_goes_on_to_the_same_files(smoke, tmp_path):
    out = tmp_path / "data"
    shutil.copytree(smoke, out)
    case_files(out, list_cases(PRESETS["smoke"].cases, seed=3)[1])[1].unlink()
    make_phantom(out, "smoke", seed=3, processes=1)
    digests = [{file.relative_to(folder): sha256(file.read_bytes()).digest() for file in folder.rglob("*.nii.gz")} for folder in (smoke, out)]
    assert digests[0] == digests[1]


def test_a_rerun_leaves_all_files_as_they_were(smoke):
    """Later stages tell by the content whether the data changed (experiments/stage.py)."""
    before = content_key([smoke])
    make_phantom(smoke, "smoke", seed=3, processes=1)
    assert content_key([smoke]) == before


def test_another_seed_in_the_same_folder_is_refused(smoke):
    with pytest.raises(ValueError, match="other settings"):
        make_phantom(smoke, "smoke", seed=4, processes=1)


def test_some_masks_are_floats_that_nearly_mean_one_and_some_geometries_are_odd(smoke):
    masks = [sitk.ReadImage(str(file)) for file in smoke.rglob("quiz_*.nii.gz") if "_0000" not in file.name]
    values = {float(v) for mask in masks for v in np.unique(sitk.GetArrayFromImage(mask))}
    assert ALMOST_ONE in values and 1.0 in values
    directions = {tuple(np.round(mask.GetDirection(), 3)) for mask in masks}
    assert any(d[0] == -1 for d in directions) and any(0 < abs(d[1]) < 1 for d in directions)


def test_the_whole_quiz_shares_out_as_in_the_quiz():
    assert share_out(252, PROPORTIONS["train"]) == [62, 106, 84]
    assert share_out(63, PROPORTIONS["train"]) == [16, 26, 21]
    assert share_out(3, PROPORTIONS["train"]) == [1, 1, 1]
    assert share_out(0, PROPORTIONS["train"]) == [0, 0, 0]


def test_names_are_unique_over_all_splits():
    cases = list_cases((63, 18, 12), seed=0)
    assert len({case.name.rsplit("_", 1)[1] for case in cases}) == 93


@pytest.fixture(scope="module")
def demo_lesions() -> tuple[np.ndarray, np.ndarray]:
    """Features (n, len(NAMES)) and subtypes (n,) of lesions as the demo preset makes them, in a smaller field of view."""
    preset = replace(PRESETS["demo"], shape=(24, 24, 32))
    rows, subtypes = [], np.arange(36) % 3
    for i, subtype in enumerate(subtypes):
        image, labels, spacing = render(preset, int(subtype), np.random.default_rng([7, i]))
        rows.append(lesion_features(image, labels == 2, tuple(spacing)))
    return np.stack(rows), subtypes


def cross_validated_f1(columns: tuple[str, ...], lesions: tuple[np.ndarray, np.ndarray]) -> float:
    features, subtypes = lesions
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=2000))
    columns = [NAMES.index(name) for name in columns]
    predicted = cross_val_predict(model, features[:, columns], subtypes, cv=StratifiedKFold(5, shuffle=True, random_state=0))
    return f1_score(subtypes, predicted, average="macro")


def test_volume_and_mean_hu_do_not_tell_the_subtype(demo_lesions):
    assert cross_validated_f1(("volume_ml", "mean"), demo_lesions) < 0.55


def test_texture_and_margin_tell_the_subtype(demo_lesions):
    assert cross_validated_f1((*TEXTURE, *MARGIN), demo_lesions) >= 0.85


@pytest.mark.parametrize("subtype", [0, 1, 2])
def test_quiz_preset_has_the_quizs_intensities(subtype):
    image, labels, spacing = render(replace(PRESETS["quiz"], shape=(40, 90, 150)), subtype, np.random.default_rng(subtype))
    foreground = image[labels > 0]
    assert 55 < foreground.mean() < 95 and 30 < foreground.std() < 55  # 74.9 and 44.1 over the quiz's cases
    assert 10 < (labels > 0).sum() * np.prod(spacing) / 1000 < 110  # ml


def test_ct_noise_has_unit_variance_and_is_correlated():
    noise = ct_noise((20, 40, 40), np.random.default_rng(0))
    assert abs(noise.std() - 1) < 1e-3
    assert 0.1 < np.corrcoef(noise[:, :, 1:].ravel(), noise[:, :, :-1].ravel())[0, 1] < 0.9


def test_smooth_noise_is_the_same_field_on_every_grid():
    noise = SmoothNoise(np.random.default_rng(0), 8.0, 60.0)
    fine = np.linspace(-40, 40, 81)
    field = noise([fine, fine, fine])
    assert np.allclose(field[::4, ::4, ::4], noise([fine[::4]] * 3), atol=1e-5)
    assert 0.8 < field.std() < 1.2


def test_ellipsoid_distance_is_exact_for_a_ball():
    canvas = Canvas((21, 21, 21), (1.0, 1.0, 1.0))
    region, distance = canvas.ellipsoid((0, 0, 0), (5, 5, 5), margin=5)
    z, y, x = canvas.coordinates(region)
    assert np.allclose(distance, np.sqrt(z**2 + y**2 + x**2) - 5, atol=1e-5)


def test_tube_is_the_union_of_its_balls():
    canvas = Canvas((11, 11, 31), (1.0, 1.0, 1.0))
    region, distance = canvas.tube(np.array([[0.0, 0, -8], [0, 0, 8]]), np.array([3.0, 2.0]), margin=4)
    full = np.full(canvas.hu.shape, 99.0)
    full[region] = distance
    assert full[5, 5, 15 - 8] == -3 and full[5, 5, 15 + 8] == -2 and full[5, 5, 15 + 11] == 1


def test_curve_passes_through_its_ends_with_their_values():
    points, values = curve(np.array([[0.0, 0, 0], [0, 3, 4], [0, 3, 14]]), (1, 2, 5))
    assert np.allclose(points[[0, -1]], [[0, 0, 0], [0, 3, 14]]) and values[0] == 1 and values[-1] == 5
