"""nnU-Net's module of the training command; `python -m` and `torchrun -m` need a file.

    torchrun --nproc_per_node 2 -m nnunetv2.run.run_training 777 3d_fullres 0
"""

from nnunetv2.cli.training import train as run_training_entry
from nnunetv2.compatibility.training import cleanup_ddp, find_free_network_port, get_trainer_from_args, maybe_load_checkpoint, run_ddp, setup_ddp
from nnunetv2.training.run_training import run_training

__all__ = ["cleanup_ddp", "find_free_network_port", "get_trainer_from_args", "maybe_load_checkpoint", "run_ddp", "run_training", "run_training_entry", "setup_ddp"]

if __name__ == "__main__":
    run_training_entry()
