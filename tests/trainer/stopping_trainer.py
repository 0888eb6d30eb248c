from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class StopsAfterOneEpoch(nnUNetTrainer):
    """Dies like a killed process would: in the second epoch, between two updates."""

    def train_step(self, batch):
        if self._step == self.num_iterations_per_epoch + 1:
            raise KeyboardInterrupt
        return super().train_step(batch)
