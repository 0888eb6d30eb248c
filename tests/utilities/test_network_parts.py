"""What plans may name and say about a network, and that nothing runs that is not known."""

import sys
from copy import deepcopy

import pytest
import torch
from torch import nn

from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.network_parts import ANY_LAYER, KINDS
from tests.inference.tiny_model import ARCHITECTURE, CLASS_HEAD


def build(class_head=None, network_class="dynamic_network_architectures.architectures.unet.ResidualEncoderUNet", imported=None, **arguments):
    kwargs = deepcopy(ARCHITECTURE["arch_kwargs"]) | arguments
    with torch.device("meta"):
        return get_network_from_plans(network_class, kwargs, imported or ARCHITECTURE["_kw_requires_import"], 1, 3, allow_init=False,
                                      class_head=class_head, where="model/plans.json")


@pytest.mark.parametrize("op", ["conv_op", "norm_op", "dropout_op", "nonlin"])
def test_a_command_in_place_of_a_layer_is_not_run(tmp_path, op):
    marker = tmp_path / "ran"
    with pytest.raises(InputError, match=f"model/plans.json: {op} names 'subprocess.call'.*--trust subprocess"):
        build(**{op: "subprocess.call", f"{op}_kwargs": {"args": f"touch {marker}", "shell": True}})
    assert not marker.exists()


@pytest.mark.parametrize("name", ["subprocess.call", "os.system", "nnunetv2.inference.predict_from_raw_data.nnUNetPredictor", "builtins.exec", "torch.nn.Conv3d"])
def test_another_network_class_is_refused(name):
    with pytest.raises(InputError, match="network_class_name"):
        build(network_class=name)


def test_an_unknown_module_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Net: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="--trust evil_module"):
        build(network_class="evil_module.Net")
    assert not (tmp_path / "ran").exists() and "evil_module" not in sys.modules


@pytest.mark.parametrize(("op", "name"), [
    ("conv_op", "torch.nn.LeakyReLU"), ("conv_op", "torch.nn.ConvTranspose3d"), ("norm_op", "torch.nn.Conv3d"), ("dropout_op", "torch.nn.InstanceNorm3d"),
    ("nonlin", "torch.nn.MultiheadAttention"), ("nonlin", "torch.jit.ScriptModule"), ("nonlin", "torch.nn.LazyLinear"), ("conv_op", None)])
def test_a_layer_of_another_kind_is_refused(op, name):
    with pytest.raises(InputError, match=op):
        build(**{op: name})


@pytest.mark.parametrize(("key", "value"), [
    ("norm_op_kwargs", {"num_features": 3}), ("norm_op_kwargs", {"device": "cuda:7"}), ("norm_op_kwargs", {"process_group": 1}),
    ("nonlin_kwargs", {"nosuch": 1}), ("nonlin_kwargs", {"negative_slope": {"a": 1}}), ("nonlin_kwargs", [1]), ("norm_op_kwargs", {"eps": float("nan")}),
    ("no_such_kwargs", {}), ("input_channels", 3), ("features_per_stage", {"a": 1}), ("nosuch", 1)])
def test_arguments_that_a_layer_does_not_take_are_refused(key, value):
    with pytest.raises(InputError, match="model/plans.json"):
        build(**{key: value})


def test_a_layer_that_is_not_listed_as_imported_is_named():
    with pytest.raises(InputError, match="conv_op 'torch.nn.modules.conv.Conv3d' must be .*_kw_requires_import"):
        build(imported=["norm_op", "nonlin"])


def test_missing_arguments_are_listed():
    kwargs = {key: value for key, value in ARCHITECTURE["arch_kwargs"].items() if key not in ("conv_op", "strides")}
    with pytest.raises(InputError, match="lacks conv_op, strides"):
        get_network_from_plans(ARCHITECTURE["network_class_name"], kwargs, ["norm_op", "nonlin"], 1, 3)


@pytest.mark.parametrize("changes", [{"nosuch": 1}, {"regions": [1]}, {"n_classes": None}, {"dropout": {}}, {"stage_channels": [1]}, {"hidden": -1}, {"stages": "01"}])
def test_a_wrong_class_head_is_refused(changes):
    with pytest.raises(InputError, match="class_head"):
        build(class_head=CLASS_HEAD | changes)


def test_a_class_head_without_classes_is_refused():
    with pytest.raises(InputError, match="class_head lacks n_classes"):
        build(class_head={key: value for key, value in CLASS_HEAD.items() if key != "n_classes"})


def test_a_trusted_network_is_built(tmp_path, monkeypatch):
    (tmp_path / "my_networks.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self, input_channels, num_classes, pool_op, **kwargs):\n"
        "        super().__init__()\n        self.pool = pool_op(2)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("nnUNet_trust", "my_networks")
    assert isinstance(build(network_class="my_networks.Net", imported=["pool_op"], pool_op="torch.nn.MaxPool3d").pool, nn.MaxPool3d)


def test_the_bottleneck_block_is_known():
    block = "dynamic_network_architectures.building_blocks.residual.BottleneckD"
    network = build(imported=[*ARCHITECTURE["_kw_requires_import"], "block"], block=block, bottleneck_channels=2)
    assert type(network.encoder.stages[0].blocks[0]).__name__ == "BottleneckD"


def test_every_known_layer_is_a_module_of_torch():
    for layers in (*KINDS.values(), ANY_LAYER):
        assert all(issubclass(layer, nn.Module) for layer in layers.values())
    assert {layer.__module__.split(".")[0] for key, layers in KINDS.items() if key != "block" for layer in layers.values()} == {"torch"}


@pytest.mark.parametrize(("key", "value"), [
    ("features_per_stage", [10**6, 10**6, 10**6]), ("features_per_stage", 10**7), ("n_stages", 10**12), ("n_stages", 33), ("n_stages", "3"), ("n_stages", True),
    ("n_blocks_per_stage", [1, 10**9, 1]), ("kernel_sizes", 10**5), ("kernel_sizes", [[3, 3, 3], [3, 3, 10**9], [3, 3, 3]]), ("features_per_stage", [4, 8.5, 8]),
    ("strides", [[1, 1, 1], [0, 2, 2], [2, 2, 2]]), ("n_conv_per_stage_decoder", [10**9, 1]), ("features_per_stage", [4, -8, 8])])
def test_absurd_sizes_are_refused_before_a_network_is_made(key, value):
    with pytest.raises(InputError, match="model/plans.json"):
        build(**{key: value})


@pytest.mark.parametrize("changes", [{"n_classes": 10**11}, {"hidden": 10**11}])
def test_absurd_class_heads_are_refused(changes):
    with pytest.raises(InputError, match="class head of"):
        build(class_head=CLASS_HEAD | changes)


def test_the_bound_can_be_raised(monkeypatch):
    monkeypatch.setenv("nnUNet_memory_gb", "0.0000001")
    with pytest.raises(InputError, match="nnUNet_memory_gb"):
        build()
    monkeypatch.setenv("nnUNet_memory_gb", "1")
    assert build().encoder.output_channels == [4, 8, 8]
