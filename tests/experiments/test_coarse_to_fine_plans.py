from experiments.coarse_to_fine_plans import with_cheap_configurations
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tests.inference.tiny_model import tiny_plans


def test_cheap_configurations_by_hand():
    """Patch 8 x 16 x 16, strides divide by 2 x 4 x 4: a half, a third and so on, rounded up to what they divide."""
    plans = PlansManager(with_cheap_configurations(tiny_plans()))
    full, coarse, middle, crops = (plans.get_configuration(name) for name in ("3d_fullres", "3d_coarse", "3d_middle", "3d_crops"))
    assert list(coarse.patch_size) == [4, 4, 4] and list(coarse.spacing) == [4, 4, 4]
    assert list(middle.patch_size) == [4, 8, 8] and list(middle.spacing) == [2, 2, 2]
    assert list(crops.patch_size) == [4, 12, 8] and list(crops.spacing) == list(full.spacing)
    assert coarse.data_identifier == "nnUNetPlans_3d_coarse" and middle.data_identifier == "nnUNetPlans_3d_middle"
    assert crops.data_identifier == full.data_identifier
    for cheap in (coarse, middle, crops):
        assert cheap.network_arch_init_kwargs == full.network_arch_init_kwargs
