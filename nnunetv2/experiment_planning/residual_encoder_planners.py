"""Planners of the residual encoder U-Nets (Isensee et al., nnU-Net Revisited, MICCAI 2024), and all planners by name."""

from nnunetv2.experiment_planning.experiment_planner import ExperimentPlanner


class ResEncUNetPlanner(ExperimentPlanner):
    """Residual encoder with nnU-Net's default memory, patch and batch rules."""

    plans_name = "nnUNetResEncUNetPlans"
    network_class_name = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    residual = True
    n_encoder = (1, 3, 4, *(6,) * 10)
    n_decoder = (1,) * 12
    reference_estimate = {2: 135_000_000, 3: 680_000_000}
    shrink_to_batch_size = {2: 12, 3: 2}

    def data_identifier(self, configuration: str) -> str:
        """Spacing and normalisation are the default planner's, so its preprocessed data serve; lowres spacing differs."""
        return super().data_identifier(configuration) if configuration not in ("2d", "3d_fullres") else f"nnUNetPlans_{configuration}"


class nnUNetPlannerResEncM(ResEncUNetPlanner):
    """For 9-11 GB of GPU memory (RTX 2080 Ti); runs on a 15 GB T4."""

    plans_name = "nnUNetResEncUNetMPlans"
    max_dataset_covered = 1


class nnUNetPlannerResEncL(ResEncUNetPlanner):
    """For 24 GB (RTX 4090)."""

    plans_name = "nnUNetResEncUNetLPlans"
    memory_gb = 24.0
    reference_estimate = {2: 380_000_000, 3: 2_100_000_000}
    max_dataset_covered = 1


class nnUNetPlannerResEncXL(ResEncUNetPlanner):
    """For 40 GB (A100)."""

    plans_name = "nnUNetResEncUNetXLPlans"
    memory_gb = 40.0
    reference_estimate = {2: 560_000_000, 3: 3_600_000_000}
    max_dataset_covered = 1


PLANNERS = {planner.__name__: planner for planner in (
    ExperimentPlanner, ResEncUNetPlanner, nnUNetPlannerResEncM, nnUNetPlannerResEncL, nnUNetPlannerResEncXL)}
