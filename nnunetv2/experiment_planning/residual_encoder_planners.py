"""Planners of the residual encoder U-Nets (Isensee et al., nnU-Net Revisited, MICCAI 2024)."""

from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from nnunetv2.experiment_planning.experiment_planner import ExperimentPlanner


class ResEncUNetPlanner(ExperimentPlanner):
    """Residual encoder with nnU-Net's default memory, patch and batch rules."""

    plans_name = "nnUNetResEncUNetPlans"
    UNet_class = ResidualEncoderUNet
    UNet_blocks_per_stage_encoder = (1, 3, 4, *(6,) * 10)
    UNet_blocks_per_stage_decoder = (1,) * 12
    UNet_reference_val_2d, UNet_reference_val_3d = 135_000_000, 680_000_000
    shrink_to_batch_size = {2: 12, 3: 2}

    def generate_data_identifier(self, configuration_name: str) -> str:
        """Spacing and normalisation are the default planner's, so its preprocessed data serve; lowres spacing differs."""
        if configuration_name in ("2d", "3d_fullres"):
            return f"nnUNetPlans_{configuration_name}"
        return super().generate_data_identifier(configuration_name)


class nnUNetPlannerResEncM(ResEncUNetPlanner):
    """For 9-11 GB of GPU memory (RTX 2080 Ti); runs on a 15 GB T4."""

    plans_name = "nnUNetResEncUNetMPlans"
    max_dataset_covered = 1


class nnUNetPlannerResEncL(ResEncUNetPlanner):
    """For 24 GB (RTX 4090)."""

    plans_name = "nnUNetResEncUNetLPlans"
    UNet_reference_val_corresp_GB = 24.0
    UNet_reference_val_2d, UNet_reference_val_3d = 380_000_000, 2_100_000_000
    max_dataset_covered = 1


class nnUNetPlannerResEncXL(ResEncUNetPlanner):
    """For 40 GB (A100)."""

    plans_name = "nnUNetResEncUNetXLPlans"
    UNet_reference_val_corresp_GB = 40.0
    UNet_reference_val_2d, UNet_reference_val_3d = 560_000_000, 3_600_000_000
    max_dataset_covered = 1
