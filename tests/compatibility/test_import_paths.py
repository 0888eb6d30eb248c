"""nnU-Net's import paths lead somewhere, and a name is the same object whichever way it is imported."""

import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

from nnunetv2.compatibility.table import ADDED, MODULES
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

# names that public code imports (TotalSegmentator, MOOSE, nnInteractive, MedNeXt and others), with upstream 2.8.1's parameters, null without any
PUBLIC = {(module, name): parameters
          for module, names in json.loads((Path(__file__).parent / "public_names.json").read_text()).items() for name, parameters in names.items()}
OTHER_SIGNATURES = {  # on purpose; docs/library.md says so
    "BasicBlockD": "layers share one LayerOps", "BottleneckD": "layers share one LayerOps", "StackedResidualBlocks": "layers share one LayerOps",
    "UNetDecoder": "takes its layers from the encoder",
}


@pytest.mark.parametrize("module", MODULES)
def test_every_listed_name_can_be_imported(module):
    found = importlib.import_module(module)
    for name in MODULES[module]:
        assert getattr(found, name) is not None
    assert set(MODULES[module]) <= set(dir(found))


@pytest.fixture
def folders(tmp_path, monkeypatch):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_extTrainer"):
        monkeypatch.setenv(name, str(tmp_path / name))


@pytest.mark.parametrize(("module", "name"), PUBLIC)
def test_names_of_public_code_are_at_upstreams_path_with_its_parameters(folders, module, name):
    found = getattr(importlib.import_module(module), name)
    wanted = PUBLIC[module, name]
    assert not inspect.ismodule(found)
    if wanted is None or name in OTHER_SIGNATURES:
        return
    parameters = inspect.signature(found).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    assert takes_all or list(parameters)[:len(wanted)] == wanted


# methods and properties of classes that public code makes or is given, with upstream 2.8.1's parameters, None of a property
MEMBERS = {
    ("nnunetv2.utilities.label_handling.label_handling", "LabelManager"): {
        "convert_logits_to_segmentation": ["predicted_logits"], "convert_probabilities_to_segmentation": ["predicted_probabilities"],
        "revert_cropping_on_probabilities": ["predicted_probabilities", "bbox", "original_shape"]},
    ("nnunetv2.utilities.plans_handling.plans_handler", "PlansManager"): {"label_manager_class": None},
}


@pytest.mark.parametrize(("module", "name"), MEMBERS)
def test_classes_have_upstreams_members_with_its_parameters(module, name):
    found = getattr(importlib.import_module(module), name)
    for member, parameters in MEMBERS[module, name].items():
        assert hasattr(found, member)
        assert parameters is None or list(inspect.signature(getattr(found, member)).parameters)[1:] == parameters


@pytest.mark.parametrize("module", ADDED)
def test_names_are_added_to_files_that_are_here(module):
    found = importlib.import_module(module)
    assert found.__spec__.loader.get_source(module)
    for name in ADDED[module]:
        assert getattr(found, name) is not None
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = found.nothing_like_it


def test_a_class_of_the_name_of_its_module_stays_a_class():
    """Python binds a submodule to its parent under the module's name, over whatever stood there."""
    for module in MODULES:
        importlib.import_module(module)
    variants = [module for module in MODULES if ".variants." in module]
    for module in variants:
        for name in MODULES[module]:
            assert issubclass(getattr(importlib.import_module(module), name), nnUNetTrainer)


PROGRAM = """
import sys
import totalsegmentator.nnunet as program
import nnunetv2.utilities.find_objects as found
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
assert program.custom_trainers and nnUNetPredictor.predict_from_files.__module__.startswith("nnunetv2")
for name in program.custom_trainers:
    assert issubclass(found.recursive_find_trainer_class_by_name(name), nnUNetTrainer)
"""


@pytest.mark.slow
def test_totalsegmentator_imports_its_nnunet_modules_and_its_trainers_are_found(tmp_path):
    """Its wheel beside this package, without its dependencies but those that its modules import first."""
    wheels = ["TotalSegmentator==2.18.0", "nibabel==5.4.2", "importlib_resources", "dicom2nifti", "pydicom"]
    done = subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path), *wheels], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"TotalSegmentator cannot be downloaded here: {done.stderr.strip().splitlines()[-1]}")
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = [{str(root)!r}, {str(tmp_path)!r}]\n{PROGRAM}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


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


@pytest.mark.slow
def test_a_module_that_was_imported_before_is_opened_too():
    program = ("import dynamic_network_architectures.initialization, nnunetv2\n"
               "from dynamic_network_architectures.initialization.weight_init import InitWeights_He\nprint(InitWeights_He.__name__)")
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).resolve().parents[2], check=False)
    assert ended.stdout.strip() == "InitWeights_He", ended.stderr
