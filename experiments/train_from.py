"""nnUNetv2_train that starts from another training's weights, or goes on where it stopped.

    python -m experiments.train_from FOLD_FOLDER CHECKPOINT ARGUMENT...      # CHECKPOINT: '' for random weights

What to start from is settled in here, not on the command line: a stage with another command line would be another stage, and a kill
would lose it.
"""

import os
import sys
from pathlib import Path


def command(fold: Path, checkpoint: str, arguments: list[str]) -> list[str]:
    begun = any((fold / name).exists() for name in ("checkpoint_latest.pth", "checkpoint_final.pth"))
    return ["nnUNetv2_train", *arguments, *(["-pretrained_weights", checkpoint, "--same_task"] if checkpoint and not begun else ["--c"])]


if __name__ == "__main__":
    run = command(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
    os.execvp(run[0], run)  # nosec B606: the command is the one that experiments are made of
