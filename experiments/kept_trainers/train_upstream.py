"""Train KeptDefault in upstream's environment: `python -I train_upstream.py PLANS.json DATASET.json DEVICE`, with the variables of kept_trainers.py.

Upstream's own command imports every trainer of its package to find one, and some need packages that its environment is built without.
"""

import json
import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parent))
from kept_trainers import KeptDefault  # noqa: E402

if __name__ == "__main__":
    plans, dataset_json = (json.loads(Path(file).read_text()) for file in sys.argv[1:3])
    trainer = KeptDefault({**plans, "continue_training": False}, "3d_fullres", 0, dataset_json, device=torch.device(sys.argv[3]))
    trainer.run_training()
