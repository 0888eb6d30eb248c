"""Dotted names out of files resolve to what is known, or to what the user trusts."""

import pytest
from torch import nn

from nnunetv2.cli.common import make_parser
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.trusted_names import is_trusted, plain_arguments, resolve, trust, trusted_packages

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


def test_a_bare_name_that_is_unknown_lists_what_is_known():
    with pytest.raises(InputError, match=r"'Magic'.*\(known\)\. Write one of these"):
        resolve("Magic", "planner", "-pl", {"known": 1})


def test_the_flag_adds_to_the_variable(monkeypatch):
    monkeypatch.setenv("nnUNet_trust", "one")
    trust("two.three, one")
    assert trusted_packages() == ("one", "two.three")


@pytest.mark.parametrize("packages", ["a b", "../x", "a,b-c", "a..b"])
def test_what_is_no_package_cannot_be_trusted(monkeypatch, packages):
    monkeypatch.setenv("nnUNet_trust", "")
    with pytest.raises(InputError, match="--trust"):
        trust(packages)


def test_the_command_line_passes_trust_on(monkeypatch):
    monkeypatch.setenv("nnUNet_trust", "")
    make_parser("x", "", "").parse_args(["--trust", "my_package,other.module"])
    assert is_trusted("my_package.networks.Net") and is_trusted("other.module.f") and not is_trusted("other.f")


@pytest.mark.parametrize("packages", ["", None])
def test_nothing_is_trusted_by_default(monkeypatch, packages):
    monkeypatch.delenv("nnUNet_trust", raising=False) if packages is None else monkeypatch.setenv("nnUNet_trust", packages)
    assert trusted_packages() == () and not is_trusted("os.system")


def _example(a, *, b=1, **more):
    """Takes anything by name."""


def test_plain_arguments_pass():
    assert plain_arguments(_example, {"b": [1, "x", None]}, "kwargs", "f", ("a",)) == {"b": [1, "x", None]}


def test_no_arguments_are_none():
    assert plain_arguments(_example, None, "kwargs", "f") == {}


def test_all_bad_arguments_are_listed():
    with pytest.raises(InputError, match="'a' is not known.*'b' is {}, no plain value"):
        plain_arguments(_example, {"a": 1, "b": {}}, "kwargs", "f", ("a",))
