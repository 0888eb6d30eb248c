"""Planners that resample otherwise: linear interpolation by torch, which is fast, or not at all."""

from typing import Any

from nnunetv2.configuration import ANISO_THRESHOLD
from nnunetv2.experiment_planning.experiment_planner import ExperimentPlanner, Resampling
from nnunetv2.experiment_planning.residual_encoder_planners import nnUNetPlannerResEncL
from nnunetv2.preprocessing.resampling import no_resampling_hack
from nnunetv2.preprocessing.resampling_torch import resample_torch_fornnunet


class OwnData:
    """Resampled otherwise, the data of other plans do not serve."""

    def generate_data_identifier(self, configuration_name: str) -> str:
        return f"{self.plans_identifier}_{configuration_name}"


class LinearByTorch(OwnData):
    """All axes at once, linearly."""

    separate_z: dict[str, Any] = {"force_separate_z": False}

    def _linear(self, is_seg: bool) -> Resampling:
        return resample_torch_fornnunet, {"is_seg": is_seg, "memefficient_seg_resampling": False, **self.separate_z}

    def determine_resampling(self, *args, **kwargs):
        return (*self._linear(False), *self._linear(True))

    def determine_segmentation_softmax_export_fn(self, *args, **kwargs):
        return self._linear(False)


class nnUNetPlanner_torchres(LinearByTorch, ExperimentPlanner):
    plans_name = "nnUNetPlans_torchres"


class nnUNetPlannerResEncL_torchres(LinearByTorch, nnUNetPlannerResEncL):
    plans_name = "nnUNetResEncUNetLPlans_torchres"


class nnUNetPlannerResEncL_torchres_sepz(LinearByTorch, nnUNetPlannerResEncL):
    """Thick slices stay apart: linear in the plane, nearest across."""

    plans_name = "nnUNetResEncUNetLPlans_torchres_sepz"
    separate_z = {"force_separate_z": None, "separate_z_anisotropy_threshold": ANISO_THRESHOLD}


class nnUNetPlannerResEncL_noResampling(OwnData, nnUNetPlannerResEncL):
    """Every image keeps its grid; spacings in the plans are for planning alone."""

    plans_name = "nnUNetResEncUNetLPlans_noResampling"

    def determine_resampling(self, *args, **kwargs):
        return no_resampling_hack, {}, no_resampling_hack, {}

    def determine_segmentation_softmax_export_fn(self, *args, **kwargs):
        return no_resampling_hack, {}
