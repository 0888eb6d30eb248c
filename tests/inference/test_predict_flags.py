import argparse

import pytest

from nnunetv2.cli.inference import _add_predict_flags


def flags(*argv):
    parser = argparse.ArgumentParser()
    _add_predict_flags(parser)
    return parser.parse_args(["-i", "in", "-o", "out", *argv])


def test_threads_default_to_one_each(monkeypatch):
    monkeypatch.delenv("nnUNet_npp", raising=False)
    monkeypatch.delenv("nnUNet_nps", raising=False)
    assert (flags().npp, flags().nps) == (1, 1)


def test_threads_are_read_from_the_environment_and_flags_go_first(monkeypatch):
    monkeypatch.setenv("nnUNet_npp", "3")
    monkeypatch.setenv("nnUNet_nps", "4")
    assert (flags().npp, flags("-nps", "0").nps) == (3, 0)


@pytest.mark.parametrize("value", ["-1", "two", "1.5", ""])
def test_threads_that_are_no_number_are_refused(monkeypatch, capsys, value):
    monkeypatch.setenv("nnUNet_npp", value)
    with pytest.raises(SystemExit):
        flags()
    assert "argument -npp" in capsys.readouterr().err
