import pytest
import torch


def test_smoke(make_trainer, folders):
    t = make_trainer()
    t.run_training()
    print(sorted(p.name for p in t.output_folder.iterdir()))
    print(t.log.values)
