"""nnU-Net's import paths lead somewhere, and a name is the same object whichever way it is imported."""

import importlib

import pytest

from nnunetv2.compatibility.table import MODULES


@pytest.mark.parametrize("module", MODULES)
def test_every_listed_name_can_be_imported(module):
    found = importlib.import_module(module)
    for name in MODULES[module]:
        assert getattr(found, name) is not None
    assert set(MODULES[module]) <= set(dir(found))


def test_a_name_is_the_object_of_the_room_it_lives_in():
    from nnunetv2.experiment_planning.experiment_planner import ExperimentPlanner as own
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner as upstream

    assert upstream is own


def test_a_file_may_be_the_parent_of_an_upstream_module():
    from nnunetv2.preprocessing import resampling
    from nnunetv2.preprocessing.resampling import default_resampling

    assert default_resampling.compute_new_shape is resampling.compute_new_shape


def test_star_imports_bring_the_public_names():
    names: dict = {}
    exec("from nnunetv2.utilities.helpers import *", names)
    assert {"softmax_helper_dim0", "softmax_helper_dim1", "empty_cache", "dummy_context"} <= set(names)


@pytest.mark.parametrize("module", ["nnunetv2.utilities.helper", "nnunetv2.nothing", "nnunetv2.utilities.helpers.more"])
def test_other_modules_are_still_missing(module):
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(module)


def test_a_name_that_the_module_lacks_is_an_import_error():
    with pytest.raises(ImportError):
        exec("from nnunetv2.utilities.helpers import softmax_helper_dim7")
