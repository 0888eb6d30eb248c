"""Precision of trainings on a CPU: who decides it, and what runs in it."""

import pytest
import torch
from torch import nn

from nnunetv2.training.nnUNetTrainer import cpu_training
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as trainer_module
from nnunetv2.training.nnUNetTrainer.cpu_training import bf16_on_cpu, in_float32
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.training_identity import training_identity
from nnunetv2.utilities.errors import InputError


@pytest.mark.parametrize(("flags", "wish", "expected"), (
    ({"amx_bf16", "avx512f"}, None, True), ({"amx_bf16"}, "auto", True), ({"amx_bf16"}, "fp32", False), ({"avx512_bf16"}, None, True), ({"avx512_vnni"}, None, False), ({"avx2"}, "bf16", True)))
def test_bf16_where_the_cpu_is_made_for_it_or_the_user_asks(monkeypatch, flags, wish, expected):
    monkeypatch.setattr(cpu_training, "cpu_flags", lambda: frozenset(flags))
    monkeypatch.delenv("nnUNet_cpu_training", raising=False)
    if wish is not None:
        monkeypatch.setenv("nnUNet_cpu_training", wish)
    assert bf16_on_cpu() is expected


def test_an_unknown_precision_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("nnUNet_cpu_training", "fp16")
    with pytest.raises(InputError, match="nnUNet_cpu_training is 'fp16'; set it to one of auto, fp32, bf16"):
        bf16_on_cpu()


def test_logits_of_bf16_go_to_the_loss_as_float32_and_others_as_they_are():
    double = torch.ones(1, 2, 2, 2, dtype=torch.float64)
    assert in_float32(double) is double
    assert [logits.dtype for logits in in_float32([double.bfloat16(), double])] == [torch.float32, torch.float64]
    assert in_float32(double.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("precision", ("fp32", "bf16"))
def test_convolutions_run_in_it_and_losses_in_float32(make_trainer, monkeypatch, precision):
    monkeypatch.setenv("nnUNet_cpu_training", precision)
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    trainer = make_trainer()
    trainer.initialize()
    trainer.dataloader_train, _ = trainer.get_dataloaders()
    assert trainer.bf16_on_cpu is (precision == "bf16")
    trainer._autocast()  # convolutions are tried here, so that the hooks see the step alone
    seen = set()
    for module in trainer.network.modules():
        if isinstance(module, nn.Conv3d):
            module.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    losses = []
    trainer.loss.register_forward_hook(lambda module, inputs, output: losses.extend([output.dtype, *(logits.dtype for logits in inputs[0])]))
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    result = trainer.train_step(next(trainer.dataloader_train))
    assert seen == {torch.float32 if precision == "fp32" else torch.bfloat16}
    assert set(losses) == {torch.float32} and result["taken"]
    assert all(parameter.dtype == torch.float32 for parameter in trainer.network.parameters())


def test_convolutions_are_tried_before_the_first_step_and_not_for_what_trains_nothing(make_trainer, monkeypatch):
    monkeypatch.setenv("nnUNet_cpu_training", "bf16")
    tried = []
    monkeypatch.setattr(trainer_module, "right_in_bf16", lambda network, batch: bool(tried.append(batch)))
    trainer = make_trainer()
    trainer.initialize()
    before = training_identity(trainer)
    assert not tried
    trainer.on_train_start()
    assert training_identity(trainer) == before  # or no training could be continued
    assert tried == [(trainer.batch_size, 1, *trainer.configuration_manager.patch_size)]
    with trainer._autocast():
        assert not torch.is_autocast_enabled("cpu") and len(tried) == 1


def test_a_network_of_somebody_else_stays_as_it_is(make_trainer, monkeypatch):
    """Its views would not survive another layout, and its layers may have no code in bf16."""
    monkeypatch.setenv("nnUNet_cpu_training", "bf16")

    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv3d(1, 3, 3, padding=1)

        def forward(self, x):
            return self.conv(x).view(len(x), 3, -1).view(len(x), 3, *x.shape[2:])

    class Own(nnUNetTrainer):
        @staticmethod
        def build_network_architecture(plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision=True):
            return Flat()

        def set_deep_supervision_enabled(self, enabled):
            pass

    trainer = make_trainer(trainer=Own)
    trainer.enable_deep_supervision, trainer.class_task = False, None
    trainer.initialize()
    trainer.dataloader_train, _ = trainer.get_dataloaders()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    assert trainer.train_step(next(trainer.dataloader_train))["taken"]
    assert not trainer.bf16_on_cpu and trainer.network.conv.weight.is_contiguous()
