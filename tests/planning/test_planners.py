import json

import numpy as np
import pytest

from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.class_evidence.blocks import BLOCKS
from nnunetv2.experiment_planning.plan_and_preprocess_api import make_planner, plan_experiments
from nnunetv2.experiment_planning.planners import planner_by_name
from nnunetv2.experiment_planning.residual_encoder_planners import nnUNetPlannerResEncM
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.files import load_json, save_json
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

M, DEFAULT = "nnUNetPlannerResEncM", "ExperimentPlanner"


def plan(dataset, planner=M, **options):
    return planner_by_name(planner)(dataset.name, **options).plan_experiment()


def sizes(plans):
    return {name: (c["patch_size"], c["batch_size"], c["architecture"]["arch_kwargs"]["n_stages"])
            for name, c in plans["configurations"].items() if "patch_size" in c}


# Patch, batch size and stages as nnU-Net 2.8.1 plans them for a dataset of equal cases.
@pytest.mark.parametrize(("planner", "spacing", "shape", "n", "expected"), [
    (M, (2.0, 0.7305, 0.7305), (59, 117, 180), 252, {"2d": ([128, 192], 134, 6), "3d_fullres": ([64, 128, 192], 2, 6)}),
    (DEFAULT, (2.0, 0.7305, 0.7305), (59, 117, 180), 252, {"2d": ([128, 192], 132, 6), "3d_fullres": ([64, 128, 192], 3, 6)}),
    (M, (1, 1, 1), (150, 180, 160), 12, {"2d": ([192, 160], 107, 6), "3d_fullres": ([128, 128, 128], 2, 6)}),
    (DEFAULT, (5, 0.6, 0.6), (60, 512, 512), 12,
     {"2d": ([512, 512], 12, 8), "3d_lowres": ([40, 224, 192], 2, 6), "3d_fullres": ([28, 256, 224], 2, 6)}),
    (M, (10, 1.5, 1.5), (12, 220, 256), 12, {"2d": ([224, 256], 57, 6), "3d_fullres": ([12, 224, 256], 5, 6)}),
    (DEFAULT, (1.5, 1.5, 1.5), (18, 25, 21), 12, {"2d": ([28, 24], 8, 3), "3d_fullres": ([20, 28, 24], 2, 3)}),
    (DEFAULT, (0.5, 0.4, 0.4), (900, 1024, 1024), 20,
     {"2d": ([1024, 1024], 3, 9), "3d_lowres": ([128, 128, 128], 2, 6), "3d_fullres": ([128, 128, 128], 2, 6)}),
    (M, (499.5, 0.5, 0.5), (1, 600, 700), 12, {"2d": ([512, 512], 12, 8)}),
    (M, (0.8, 0.8, 4.0), (300, 300, 60), 12, {"2d": ([320, 320], 32, 7), "3d_fullres": ([40, 192, 192], 2, 6)}),
])
def test_plans_match_the_published_planner(dataset, planner, spacing, shape, n, expected):
    dataset.write_fingerprint(spacing, shape, n)
    assert sizes(plan(dataset, planner)) == expected


def test_coarsest_axis_comes_first(dataset):
    dataset.write_fingerprint((1.0, 1.2, 3.5), (200, 220, 50))
    plans = plan(dataset)
    assert (plans["transpose_forward"], plans["transpose_backward"]) == ([2, 0, 1], [1, 2, 0])
    assert plans["configurations"]["3d_fullres"]["spacing"] == [3.5, 1.0, 1.2]
    assert plans["original_median_shape_after_transp"] == [50, 200, 220]


def set_spacings(dataset, z, in_plane=1.0, shape=(10, 200, 200)):
    dataset.write_fingerprint((1, 1, 1), shape, len(z))
    path = dataset.preprocessed / "dataset_fingerprint.json"
    save_json(load_json(path) | {"spacings": [[value, in_plane, in_plane] for value in z]}, path)


def fullres_spacing(dataset):
    return plan(dataset)["configurations"]["3d_fullres"]["spacing"]


def test_thick_slices_aim_at_the_thinner_cases(dataset):
    set_spacings(dataset, [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13])
    assert fullres_spacing(dataset) == [4.0, 1.0, 1.0]  # the 10th percentile of 11 values is the second


def test_thick_slices_stay_the_coarsest_axis(dataset):
    set_spacings(dataset, [0.5, 0.6, 8, 8, 8, 8, 8, 8, 8, 8, 8])
    assert fullres_spacing(dataset) == [pytest.approx(1.00001), 1.0, 1.0]


@pytest.mark.parametrize(("z", "shape"), [([3, 3, 3], (10, 200, 200)), ([2, 9, 9], (70, 200, 200))])
def test_median_spacing_is_kept_unless_slices_are_thick_and_few(dataset, z, shape):
    set_spacings(dataset, z, shape=shape)
    assert fullres_spacing(dataset)[0] == sorted(z)[1]


def test_lowres_makes_a_cascade_and_turns_batch_dice_on(dataset):
    dataset.write_fingerprint((1, 0.8, 0.8), (400, 512, 512))
    configurations = plan(dataset)["configurations"]
    assert list(configurations) == ["2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres"]
    assert configurations["3d_cascade_fullres"] == {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    assert configurations["3d_lowres"]["next_stage"] == "3d_cascade_fullres"
    assert [configurations[name]["batch_dice"] for name in ("2d", "3d_lowres", "3d_fullres")] == [True, False, True]


def test_lowres_spacing_grows_in_the_fine_axes_first_and_by_three_percent_a_step(dataset):
    dataset.write_fingerprint((5, 0.6, 0.6), (60, 512, 512))
    lowres = plan(dataset)["configurations"]["3d_lowres"]
    assert lowres["spacing"] == [5.0, pytest.approx(0.6 * 1.03**17), pytest.approx(0.6 * 1.03**17)]
    assert lowres["median_image_size_in_voxels"] == [60, 310, 310]


def test_residual_planner_shares_the_default_planners_data_but_not_its_lowres(dataset):
    dataset.write_fingerprint((1, 0.8, 0.8), (400, 512, 512))
    names = {name: c["data_identifier"] for name, c in plan(dataset)["configurations"].items() if "data_identifier" in c}
    assert names == {"2d": "nnUNetPlans_2d", "3d_fullres": "nnUNetPlans_3d_fullres", "3d_lowres": "nnUNetResEncUNetMPlans_3d_lowres"}


def test_more_memory_buys_a_larger_patch(dataset):
    dataset.write_fingerprint((1, 1, 1), (300, 300, 300))
    small, large = (plan(dataset, gpu_memory_target_in_gb=gb)["configurations"]["3d_fullres"]["patch_size"] for gb in (4.0, 16.0))
    assert small < large


def test_memory_in_which_nothing_fits_is_refused(dataset):
    dataset.write_fingerprint((1, 1, 1), (100, 100, 100))
    with pytest.raises(ValueError, match="No patch fits 1e-06 GB"):
        plan(dataset, gpu_memory_target_in_gb=1e-6)


def test_target_spacing_may_be_given(dataset):
    dataset.write_fingerprint((1, 1, 1), (100, 100, 100))
    plans = plan(dataset, overwrite_target_spacing=[2.5, 1, 1.25])
    fullres = plans["configurations"]["3d_fullres"]
    assert (fullres["spacing"], fullres["median_image_size_in_voxels"]) == ([2.5, 1.0, 1.25], [40.0, 100.0, 80.0])


@pytest.mark.parametrize("spacing", [[1.0, 1.0], [1.0, 0.0, 1.0]])
def test_unusable_target_spacing_is_refused(dataset, spacing):
    with pytest.raises(ValueError, match="three numbers"):
        plan(dataset, overwrite_target_spacing=spacing)


def test_normalisation_follows_the_channel_name_and_masks_only_z_scores(dataset):
    dataset.save_json(channel_names={"0": "CT", "1": "T1", "2": "noNorm"})
    dataset.write_fingerprint((1, 1, 1), (64, 64, 64), relative_size=0.5)
    fullres = plan(dataset)["configurations"]["3d_fullres"]
    assert fullres["normalization_schemes"] == ["CTNormalization", "ZScoreNormalization", "NoNormalization"]
    assert fullres["use_mask_for_norm"] == [False, True, False]


def test_replanning_keeps_configurations_that_others_added(dataset):
    dataset.write_fingerprint((1, 1, 1), (64, 64, 64))
    path = dataset.preprocessed / "nnUNetResEncUNetMPlans.json"
    plans = plan(dataset)
    plans["configurations"] |= {"mine": {"inherits_from": "3d_fullres", "batch_size": 7}, "2d": {"stale": True}}
    save_json(plans, path)
    plan(dataset)
    again = load_json(path)["configurations"]
    assert again["mine"] == {"inherits_from": "3d_fullres", "batch_size": 7} and "stale" not in again["2d"]


def test_returned_plans_are_those_on_disk(dataset):
    dataset.write_fingerprint((1, 1, 1), (65, 64, 64), 3)
    assert plan(dataset) == json.loads((dataset.preprocessed / "nnUNetResEncUNetMPlans.json").read_text())


@pytest.mark.slow
def test_class_head_is_described_in_every_configuration_beside_the_networks_arguments(dataset):
    dataset.write_fingerprint((1, 0.8, 0.8), (400, 512, 512))
    dataset.classify()
    for name in ("2d", "3d_lowres", "3d_fullres"):
        architecture = plan(dataset)["configurations"][name]["architecture"]
        assert architecture["class_head"] == {
            "n_classes": 3, "lesion_labels": [2], "regions": {"lesion": [2]}, "stages": [0],
            "statistics": ["mean", "std"], "descriptors": False, "texture_of_channels": 1, "focus": True, "hidden": 0, "dropout": 0.1, "evidence": list(BLOCKS)}
        assert "class_head" not in architecture["arch_kwargs"]


def test_lesion_labels_of_the_task_are_what_the_head_pools(dataset):
    dataset.write_fingerprint((1, 1, 1), (64, 64, 64))
    dataset.classify(lesion_labels=[1, 2])
    assert plan(dataset)["configurations"]["3d_fullres"]["architecture"]["class_head"]["regions"] == {"lesion": [1, 2]}


def test_plans_without_classification_have_no_class_head(dataset):
    dataset.write_fingerprint((1, 1, 1), (64, 64, 64))
    assert "class_head" not in plan(dataset)["configurations"]["3d_fullres"]["architecture"]


def test_classification_with_regions_is_refused(dataset):
    dataset.write_fingerprint((1, 1, 1), (64, 64, 64))
    dataset.classify()
    dataset.save_json(labels={"background": 0, "whole": [1, 2], "lesion": 2}, regions_class_order=[1, 2])
    with pytest.raises(ValueError, match="'labels' defines regions; leave one of the two out"):
        plan(dataset)


def test_bad_class_of_a_training_case_stops_planning_and_that_of_a_held_out_case_does_not(dataset):
    dataset.write_fingerprint((1, 1, 1), (64, 64, 64))
    dataset.classify("a,0\nb,1\nc,secret\n")
    with pytest.raises(ValueError, match="c: 'secret'"):
        plan(dataset)
    dataset.save_json(holdout=["c"])
    plan(dataset)


def test_held_out_cases_do_not_count_for_the_batch_size(dataset):
    dataset.write_fingerprint((1, 1, 1), (32, 32, 32), 80)
    assert plan(dataset, DEFAULT)["configurations"]["3d_fullres"]["batch_size"] == 4  # 5 % of 80 patches
    dataset.save_json(holdout=[f"case{i}" for i in range(20)])
    assert plan(dataset, DEFAULT)["configurations"]["3d_fullres"]["batch_size"] == 3


def test_planning_copies_what_training_needs(dataset):
    dataset.write_fingerprint((1, 1, 1), (64, 64, 64))
    dataset.classify()
    save_json([{"train": ["a", "b"], "val": ["c"]}], dataset.raw / "splits_final.json")
    plan(dataset)
    for name in ("dataset.json", "subtypes.csv", "splits_final.json"):
        assert (dataset.preprocessed / name).read_text() == (dataset.raw / name).read_text()


def test_existing_splits_are_kept_with_a_warning(dataset):
    dataset.write_fingerprint((1, 1, 1), (64, 64, 64))
    for folder, train in ((dataset.raw, ["a", "b"]), (dataset.preprocessed, ["b", "c"])):
        save_json([{"train": train, "val": []}], folder / "splits_final.json")
    with pytest.warns(UserWarning, match="splits_final.json"):
        plan(dataset)
    assert load_json(dataset.preprocessed / "splits_final.json")[0]["train"] == ["b", "c"]


def test_planning_without_a_fingerprint_says_how_to_get_one(dataset):
    with pytest.raises(FileNotFoundError, match="nnUNetv2_extract_fingerprint"):
        plan(dataset)


@pytest.mark.slow
@pytest.mark.parametrize(("options", "identifier"), [
    ({"experiment_planner_class_name": "nnUNetPlannerResEncL"}, "nnUNetResEncUNetLPlans"), ({}, "nnUNetPlans"), ({"overwrite_plans_name": "mine"}, "mine")])
def test_plans_identifier_is_returned_and_names_the_file(dataset, options, identifier):
    dataset.write_fingerprint((1, 1, 1), (64, 64, 64))
    assert plan_experiments([555], **options) == identifier
    assert load_json(dataset.preprocessed / f"{identifier}.json")["plans_name"] == identifier


def test_unknown_planner_lists_those_there_are(dataset):
    with pytest.raises(ValueError, match="'ResEncXXL'.*nnUNetPlannerResEncXL"):
        plan_experiments([555], "ResEncXXL")


class PlannerOfAUser(nnUNetPlannerResEncM):
    """As people write them: constants after super().__init__, hooks under nnU-Net's names."""

    def __init__(self, dataset_name_or_id, gpu_memory_target_in_gb=8, preprocessor_name="DefaultPreprocessor", plans_name="MyPlans",
                 overwrite_target_spacing=None, suppress_transpose=False):
        super().__init__(dataset_name_or_id, gpu_memory_target_in_gb, preprocessor_name, plans_name, overwrite_target_spacing, suppress_transpose)
        self.UNet_base_num_features = 16
        self.UNet_max_features_3d = 64

    def determine_fullres_target_spacing(self):
        return np.array([2.0, 1.0, 1.0])

    def generate_data_identifier(self, configuration_name):
        return f"mine_{configuration_name}"


def test_a_planner_of_a_user_is_asked_by_nnunets_names(dataset):
    dataset.write_fingerprint((1, 1, 1), (100, 100, 100))
    plans = PlannerOfAUser(dataset.name).plan_experiment()
    fullres = plans["configurations"]["3d_fullres"]
    assert plans["plans_name"] == "MyPlans" and plans["experiment_planner_used"] == "PlannerOfAUser"
    assert fullres["spacing"] == [2.0, 1.0, 1.0] and fullres["data_identifier"] == "mine_3d_fullres"
    assert fullres["architecture"]["arch_kwargs"]["features_per_stage"][:4] == [16, 32, 64, 64]


class PlannerOfArrays(nnUNetPlannerResEncM):
    """As people change what nnU-Net's methods return, numpy's values among it."""

    def determine_transpose(self):
        return [np.int64(0), np.int64(1), np.int64(2)], np.arange(3)

    def determine_reader_writer(self):
        assert self.dataset["a"]["label"].endswith("a.nii.gz")
        return super().determine_reader_writer()

    def get_plans_for_configuration(self, *arguments):
        plans = super().get_plans_for_configuration(*arguments)
        return plans | {"spacing": plans["spacing"] * 2, "batch_size": np.int64(3)}


def test_a_planner_may_compute_with_numpy(dataset):
    dataset.write_fingerprint((1, 1, 1), (100, 100, 100))
    plans = PlannerOfArrays(dataset.name).plan_experiment()
    assert plans == load_json(dataset.preprocessed / "nnUNetResEncUNetMPlans.json") and plans["transpose_backward"] == [0, 1, 2]
    assert plans["configurations"]["3d_fullres"]["spacing"] == [2.0, 2.0, 2.0] and plans["image_reader_writer"] == "SimpleITKIO"


class PlannerWithMemory(nnUNetPlannerResEncM):
    """As nnU-Net's own presets are written: memory and name are defaults of the arguments."""

    def __init__(self, dataset_name_or_id, gpu_memory_target_in_gb=24, preprocessor_name="DefaultPreprocessor", plans_name="WithMemoryPlans",
                 overwrite_target_spacing=None, suppress_transpose=False):
        super().__init__(dataset_name_or_id, gpu_memory_target_in_gb, preprocessor_name, plans_name, overwrite_target_spacing, suppress_transpose)


@pytest.mark.parametrize(("options", "name", "memory"), [({}, "WithMemoryPlans", 24), ({"gpu_memory_target_in_gb": 10, "overwrite_plans_name": "Other"}, "Other", 10)])
def test_the_defaults_of_a_planners_arguments_count_where_nothing_else_is_given(dataset, options, name, memory):
    dataset.write_fingerprint((1, 1, 1), (100, 100, 100))
    assert make_planner(PlannerWithMemory, dataset.name, **options).UNet_vram_target_GB == memory
    assert plan_experiments([dataset.name], "PlannerWithMemory", **options) == name
    assert not (dataset.preprocessed / "nnUNetResEncUNetMPlans.json").exists()


class OwnReader(SimpleITKIO):
    pass


def resample_of_a_user(data, new_shape, current_spacing, new_spacing):
    return data


class PlannerOfOwnParts(nnUNetPlannerResEncM):
    def determine_reader_writer(self):
        return OwnReader

    def determine_resampling(self, *args, **kwargs):
        return resample_of_a_user, {}, resample_of_a_user, {}


def test_what_a_planner_brings_along_is_planned_by_a_path_that_leads_to_it(dataset, monkeypatch):
    dataset.write_fingerprint((1, 1, 1), (60, 60, 60))
    manager = PlansManager(PlannerOfOwnParts(dataset.name).plan_experiment())
    with pytest.raises(InputError, match="--trust"):
        _ = manager.image_reader_writer_class
    monkeypatch.setenv("nnUNet_trust", __name__)
    assert manager.image_reader_writer_class is OwnReader
    assert manager.get_configuration("3d_fullres").resampling_fn_seg.func is resample_of_a_user


def test_transposition_can_be_suppressed(dataset):
    dataset.write_fingerprint((1.0, 1.2, 3.5), (200, 220, 50))
    assert plan(dataset, suppress_transpose=True)["transpose_forward"] == [0, 1, 2]


@pytest.mark.parametrize(("name", "function", "kwargs"), [
    ("nnUNetPlanner_torchres", "resample_torch_fornnunet", {"is_seg": True, "memefficient_seg_resampling": False, "force_separate_z": False}),
    ("nnUNetPlannerResEncL_torchres_sepz", "resample_torch_fornnunet",
     {"is_seg": True, "memefficient_seg_resampling": False, "force_separate_z": None, "separate_z_anisotropy_threshold": 3}),
    ("nnUNetPlannerResEncL_noResampling", "no_resampling_hack", {}),
])
def test_planners_name_their_resampling(dataset, name, function, kwargs):
    dataset.write_fingerprint((1, 1, 1), (60, 60, 60))
    plans = plan(dataset, name)
    fullres = plans["configurations"]["3d_fullres"]
    assert (fullres["resampling_fn_seg"], fullres["resampling_fn_seg_kwargs"]) == (function, kwargs)
    assert fullres["data_identifier"] == f"{plans['plans_name']}_3d_fullres"


def test_an_unknown_planner_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="ExperimentPlanner, .*nnUNetPlannerResEncXL"):
        planner_by_name("nnUNetPlanner3000")


@pytest.mark.slow
def test_memory_of_an_unknown_network_class_is_asked_of_the_network(dataset):
    dataset.write_fingerprint((1, 1, 1), (60, 60, 60))

    class Same(PlainConvUNet):
        pass

    planner = planner_by_name("ExperimentPlanner")(dataset.name)
    expected = planner.plan_experiment()["configurations"]["3d_fullres"]["patch_size"]
    planner.static_estimate_VRAM_usage = lambda patch, *rest: PlainConvUNet.compute_conv_feature_map_size(_network(rest), patch)
    planner.UNet_class = Same
    assert planner.plan_experiment()["configurations"]["3d_fullres"]["patch_size"] == expected


def _network(arguments):
    n_in, n_out, _, kwargs, to_import = arguments
    return get_network_from_plans("dynamic_network_architectures.architectures.unet.PlainConvUNet", kwargs, to_import, n_in, n_out, allow_init=False)
