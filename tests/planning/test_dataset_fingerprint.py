import numpy as np
import pytest

from nnunetv2.experiment_planning import dataset_fingerprint
from nnunetv2.experiment_planning.dataset_fingerprint import DatasetFingerprintExtractor, intensity_properties


@pytest.fixture(autouse=True)
def few_samples(monkeypatch):
    monkeypatch.setattr(dataset_fingerprint, "N_SAMPLES", 3000)


def extract(dataset, **kwargs):
    return DatasetFingerprintExtractor(dataset.name, num_processes=2).run(**kwargs)


def test_geometry_is_in_array_order_and_cropped_to_nonzero(dataset):
    fingerprint = extract(dataset)
    assert fingerprint["spacings"] == [[2.5, 0.875, 0.75]] * 3
    assert fingerprint["shapes_after_crop"] == [[7, 12, 10]] * 3
    assert fingerprint["median_relative_size_after_cropping"] == 7 / 8


def test_intensities_are_drawn_from_the_foreground_with_upstreams_seed(dataset):
    drawn = []
    for i in range(3):
        image = np.random.default_rng(i).integers(-50, 150, (8, 12, 10)).astype(np.float32)
        drawn.append(np.random.RandomState(1234).choice(image[2:6, 3:9, 3:8].ravel(), 1000))
    drawn = np.concatenate(drawn)
    found = extract(dataset)["foreground_intensity_properties_per_channel"]["0"]
    assert (found["mean"], found["std"], found["max"]) == (drawn.mean(), drawn.std(), drawn.max())
    assert found["percentile_99_5"] == np.percentile(drawn, 99.5)


def test_held_out_case_leaves_no_trace(dataset):
    extract_without = extract(dataset)
    dataset.write("val", np.full((9, 9, 9), 3000, np.int16), np.ones((9, 9, 9), np.uint8))
    dataset.save_json(holdout=["val"], numTraining=4)
    assert extract(dataset, overwrite_existing=True) == extract_without


def test_held_out_case_that_is_not_there_is_named(dataset):
    dataset.save_json(holdout=["nobody"])
    with pytest.raises(ValueError, match="nobody"):
        extract(dataset)


def test_fingerprint_on_disk_is_kept_while_its_cases_are_the_same(dataset, monkeypatch):
    first = extract(dataset)
    monkeypatch.setattr("nnunetv2.experiment_planning.dataset_fingerprint.in_threads", lambda *_: pytest.fail("read again"))
    assert extract(dataset, overwrite_existing=False) == first


def test_fingerprint_is_recomputed_when_a_case_changed(dataset):
    first = extract(dataset)
    dataset.write("a", np.ones((8, 12, 10), np.int16))
    assert extract(dataset, overwrite_existing=False) != first


def test_case_without_foreground_adds_no_intensities(dataset):
    image = np.full((8, 12, 10), 5000, np.int16)
    dataset.write("b", image, np.zeros(image.shape, np.uint8))
    assert extract(dataset)["foreground_intensity_properties_per_channel"]["0"]["max"] < 150


def test_dataset_without_foreground_is_refused(dataset):
    for case in "abc":
        dataset.write(case, seg=np.zeros((8, 12, 10), np.uint8))
    with pytest.raises(ValueError, match="no training case has foreground"):
        extract(dataset)


def test_all_unusable_cases_are_named_at_once(dataset):
    dataset.write("a", seg=np.ones((7, 12, 10), np.uint8))
    dataset.write("c", seg=np.ones((8, 12, 9), np.uint8))
    with pytest.raises(RuntimeError, match=r"(?s)a\.nii\.gz has \(z, y, x\) = \(7, 12, 10\) voxels.*c\.nii\.gz has \(z, y, x\) = \(8, 12, 9\)"):
        extract(dataset)


@pytest.mark.parametrize("file", ["imagesTr/b_0000.mha", "labelsTr/b.mha"])
def test_nan_is_refused(dataset, write_image, file):
    for case in "abc":
        for path in (f"imagesTr/{case}_0000.mha", f"labelsTr/{case}.mha"):
            array = np.ones((4, 4, 4), np.float32)
            array[0, 0, 0] = np.nan if path == file else 1
            write_image(array, dataset.raw / path)
        (dataset.raw / "imagesTr" / f"{case}_0000.nii.gz").unlink()
    dataset.save_json(file_ending=".mha")
    with pytest.raises(RuntimeError, match=rf"(?s)1 of 3 cases.*{file}.* NaN"):
        extract(dataset)


def test_properties_of_a_known_sample():
    assert intensity_properties(np.arange(201.0)) == {
        "mean": 100.0, "std": pytest.approx(58.0230), "min": 0.0, "max": 200.0,
        "percentile_00_5": 1.0, "median": 100.0, "percentile_99_5": 199.0}


def test_foreground_intensities_of_arrays():
    image, seg = np.arange(8.0).reshape(1, 2, 2, 2), np.zeros((1, 2, 2, 2), int)
    seg[0, 1, 1] = (1, 2)  # the voxels 6 and 7
    samples, statistics = DatasetFingerprintExtractor.collect_foreground_intensities(seg, image, num_samples=20)
    assert len(samples) == 1 and samples[0].shape == (20,) and set(samples[0]) == {6.0, 7.0}
    assert statistics == [{"mean": 6.5, "min": 6.0, "max": 7.0, "percentile_00_5": 6.005, "median": 6.5, "percentile_99_5": 6.995}]
    samples, statistics = DatasetFingerprintExtractor.collect_foreground_intensities(seg * 0, image)
    assert samples[0].size == 0 and all(np.isnan(value) for value in statistics[0].values())
