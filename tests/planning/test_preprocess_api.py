import pytest

from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager


@pytest.fixture
def runs(monkeypatch):
    """Records what the preprocessor is asked to do instead of doing it."""
    asked = []

    class Recorder:
        def __init__(self, verbose):
            pass

        def run(self, *arguments):
            asked.append(arguments)

    monkeypatch.setattr(ConfigurationManager, "preprocessor_class", Recorder)
    return asked


@pytest.fixture
def planned(dataset):
    dataset.write_fingerprint((1, 1, 1), (64, 64, 64))
    plan_experiments([555])
    return dataset


def test_configurations_that_the_plans_lack_are_named_and_left_out(planned, runs, capsys):
    preprocess([555], num_processes=3)
    assert runs == [(planned.name, "2d", "nnUNetPlans", 3), (planned.name, "3d_fullres", "nnUNetPlans", 3)]
    assert "no configuration 3d_lowres" in capsys.readouterr().out


def test_each_configuration_may_have_its_own_process_count(planned, runs):
    preprocess(["555"], "nnUNetPlans", ["3d_fullres", "2d"], [1, 2])
    assert [(run[1], run[3]) for run in runs] == [("3d_fullres", 1), ("2d", 2)]


def test_process_count_is_left_to_the_preprocessor_by_default(planned, runs):
    preprocess([555], configurations=["2d"])
    assert runs[0][3] is None


def test_wrong_number_of_process_counts_is_refused(planned, runs):
    with pytest.raises(ValueError, match="2 process counts .* 3 configurations"):
        preprocess([555], num_processes=[1, 2])


def test_preprocessing_without_plans_says_how_to_get_them(dataset):
    with pytest.raises(FileNotFoundError, match="nnUNetv2_plan_experiment"):
        preprocess([555], "nnUNetResEncUNetMPlans")


def test_integrity_is_checked_before_the_fingerprint_when_asked(dataset):
    dataset.save_json(numTraining=99)
    with pytest.raises(ValueError, match="numTraining is 99"):
        extract_fingerprints([555], num_processes=1, check_dataset_integrity=True)
    assert not (dataset.preprocessed / "dataset_fingerprint.json").exists()
