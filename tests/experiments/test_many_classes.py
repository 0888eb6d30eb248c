import numpy as np
import pytest

from experiments.many_classes import balls, here, main


def test_a_mask_of_a_finer_grid_shows_the_balls():
    logits = balls(5, (12, 12, 12))
    seconds, mask = here(logits, (15, 15, 15))
    assert seconds > 0 and mask.shape == (15, 15, 15)
    assert set(np.unique(mask)) <= set(np.unique(logits.argmax(0)))


def test_without_nnunet_its_own_time_is_told(monkeypatch, capsys):
    monkeypatch.delenv("NNUNET_UPSTREAM_PYTHON", raising=False)
    main(["--classes", "3", "--shape", "6", "6", "6"])
    told = capsys.readouterr()
    assert told.out.startswith("here: ") and "NNUNET_UPSTREAM_PYTHON" in told.err
    with pytest.raises(SystemExit):
        main(["--classes", "1"])
