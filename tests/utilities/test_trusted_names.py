"""Dotted names out of files resolve to what is known, or to what the user trusts."""

import pytest
from torch import nn

from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.trusted_names import resolve

KNOWN = {"torch.nn.Conv3d": nn.Conv3d}


def test_a_known_name_is_found():
    assert resolve("torch.nn.Conv3d", "conv_op", "plans.json", KNOWN) is nn.Conv3d


@pytest.mark.parametrize("name", ["subprocess.call", "os.system", "builtins.eval", "torch.load", "torch.nn.Conv3d.__init__"])
def test_an_unknown_name_is_refused_and_the_message_says_how_to_trust_it(name, monkeypatch):
    monkeypatch.delenv("nnUNet_trust", raising=False)
    with pytest.raises(InputError, match=r"plans.json: dropout_op names .*--trust .*nnUNet_trust="):
        resolve(name, "dropout_op", "plans.json", KNOWN)


@pytest.mark.parametrize("value", [None, 3, ["torch.nn.Conv3d"], {}])
def test_what_is_no_text_is_refused(value):
    with pytest.raises(InputError, match="must be the name"):
        resolve(value, "conv_op", "plans.json", KNOWN)


def test_a_trusted_package_is_imported(monkeypatch):
    monkeypatch.setenv("nnUNet_trust", "fractions, collections")
    assert resolve("fractions.Fraction", "conv_op", "plans.json", KNOWN).__name__ == "Fraction"


def test_trust_covers_whole_components_only(monkeypatch):
    monkeypatch.setenv("nnUNet_trust", "frac")
    with pytest.raises(InputError):
        resolve("fractions.Fraction", "conv_op", "plans.json", KNOWN)


def test_a_trusted_object_of_another_kind_is_refused(monkeypatch):
    monkeypatch.setenv("nnUNet_trust", "math")
    with pytest.raises(InputError, match="another kind"):
        resolve("math.pi", "conv_op", "plans.json", KNOWN)
