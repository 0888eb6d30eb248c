"""Train upstream nnU-Net for a stated budget; runs in the environment that holds upstream, and needs nothing of this repository.

    .venv-upstream/bin/python -I experiments/upstream_train.py 4 3d_fullres 0 -p nnUNetPlans --epochs 20 --iterations 50 --val_iterations 5

Upstream's command has no flag for these numbers, so they are set on its own trainer, whose name the checkpoint keeps. No validation
follows; a killed training goes on at its latest checkpoint.
"""

import argparse
import os
import random

import numpy as np
import torch
from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("configuration")
    parser.add_argument("fold", type=int)
    parser.add_argument("-p", default="nnUNetPlans", help="plans name")
    parser.add_argument("-device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--iterations", type=int, required=True, help="an epoch")
    parser.add_argument("--val_iterations", type=int, required=True, help="an epoch")
    parser.add_argument("--seed", type=int, default=0, help="of weights, batches and augmentation")
    parser.add_argument("--keep_epochs", action="store_true", help="keep the weights of each, checkpoint_epoch_001.pth and so on")
    args = parser.parse_args()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(args.seed)
    trainer = get_trainer_from_args(
        args.dataset, args.configuration, args.fold, "nnUNetTrainer", args.p, device=torch.device(args.device)
    )
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = (
        args.epochs,
        args.iterations,
        args.val_iterations,
    )
    trainer.save_every = max(1, min(trainer.save_every, args.epochs // 4))
    if args.keep_epochs:
        end_epoch = trainer.on_epoch_end

        def end_and_keep() -> None:
            end_epoch()
            trainer.save_checkpoint(os.path.join(trainer.output_folder, f"checkpoint_epoch_{trainer.current_epoch:03d}.pth"))

        trainer.on_epoch_end = end_and_keep
    maybe_load_checkpoint(trainer, continue_training=True, validation_only=False)
    trainer.run_training()


if __name__ == "__main__":
    main()
