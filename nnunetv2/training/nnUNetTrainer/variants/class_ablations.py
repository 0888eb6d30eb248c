"""Trainers that differ in the class task alone, for the ablation table. The head itself is described in the plans."""

from dataclasses import replace

from nnunetv2.training.nnUNetTrainer.class_training import ClassTraining
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainerNaiveClassHead(nnUNetTrainer):
    """The usual joint training: one SGD at lr .01 for all, full gradient from the start, no teacher, full augmentation."""

    predicts_as = "nnUNetTrainer"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.class_training = ClassTraining(
            loss_weight=1.0, label_smoothing=0.0, warm_up=0.0, teacher_start=0.0, teacher_end=0.0, encoder_gradient=1.0,
            encoder_release=0.0, optimiser="sgd", lr=self.initial_lr, weight_decay=self.weight_decay, lesion_share=0.0)


class nnUNetTrainerTextureKeeping(nnUNetTrainer):
    """Without blur, low resolution and gamma."""

    predicts_as = "nnUNetTrainer"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.texture_keeping = True


class nnUNetTrainerBalancedSampling(nnUNetTrainer):
    """Every class is drawn equally often, and none is weighted."""

    predicts_as = "nnUNetTrainer"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.class_training = replace(self.class_training, balance="sampling")


class nnUNetTrainerClassGradient(nnUNetTrainer):
    """A tenth of the class loss's gradient reaches the encoder, after the first fifth of the training."""

    predicts_as = "nnUNetTrainer"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.class_training = replace(self.class_training, encoder_gradient=0.1)
