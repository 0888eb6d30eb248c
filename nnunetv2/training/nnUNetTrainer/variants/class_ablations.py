"""Trainers that differ in the class task alone, for the ablation table and the study of choices. The head itself is described in the plans.

All follow nnU-Net's recipe; those of the ablation follow the recipe for short trainings as well, as nnUNetTrainerShort... .
"""

from dataclasses import replace

from nnunetv2.training.nnUNetTrainer.class_training import ClassTraining
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.short_training import nnUNetTrainerShort


class nnUNetTrainerNaiveClassHead(nnUNetTrainer):
    """The usual joint training: one optimiser at one rate for all, full gradient from the start, no teacher, nnU-Net's own draw of patches."""

    predicts_as = "nnUNetTrainer"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        short = isinstance(self, nnUNetTrainerShort)
        self.class_training = ClassTraining(
            loss_weight=1.0, label_smoothing=0.0, warm_up=0.0, teacher_start=0.0, teacher_end=0.0, encoder_gradient=1.0, encoder_release=0.0,
            optimiser="adamw" if short else "sgd", lr=self.initial_lr, weight_decay=self.weight_decay, lesion_share=0.0)


class nnUNetTrainerNoClassLoss(nnUNetTrainer):
    """The head stays as it was drawn, so that a refit alone makes it one."""

    predicts_as = "nnUNetTrainer"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.class_training = replace(self.class_training, loss_weight=0.0)


class nnUNetTrainerClassGradient(nnUNetTrainer):
    """A tenth of the class loss's gradient reaches the encoder, after the first fifth of the training."""

    predicts_as = "nnUNetTrainer"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.class_training = replace(self.class_training, encoder_gradient=0.1)


class nnUNetTrainerClassGradientNoTeacher(nnUNetTrainerClassGradient):
    """The same, with the head on predicted masks from the first step."""

    predicts_as = "nnUNetTrainer"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.class_training = replace(self.class_training, teacher_start=0.0, teacher_end=0.0)


class nnUNetTrainerShortNaiveClassHead(nnUNetTrainerNaiveClassHead, nnUNetTrainerShort):
    __doc__ = nnUNetTrainerNaiveClassHead.__doc__
    predicts_as = "nnUNetTrainer"


class nnUNetTrainerShortNoClassLoss(nnUNetTrainerNoClassLoss, nnUNetTrainerShort):
    __doc__ = nnUNetTrainerNoClassLoss.__doc__
    predicts_as = "nnUNetTrainer"


class nnUNetTrainerShortClassGradient(nnUNetTrainerClassGradient, nnUNetTrainerShort):
    __doc__ = nnUNetTrainerClassGradient.__doc__
    predicts_as = "nnUNetTrainer"


class nnUNetTrainerShortClassGradientNoTeacher(nnUNetTrainerClassGradientNoTeacher, nnUNetTrainerShort):
    __doc__ = nnUNetTrainerClassGradientNoTeacher.__doc__
    predicts_as = "nnUNetTrainer"


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
