"""Checkpoints that are damaged, hold code, or weights that are no numbers; and a disk that takes no more."""

import errno
import zipfile

import pytest
import torch

from nnunetv2.utilities.checkpoint import check_contents, load_checkpoint, load_pretrained_weights, refuse_non_finite, save_checkpoint, write_checkpoint
from nnunetv2.utilities.errors import InputError

GOOD = {"network_weights": {"w": torch.ones(2)}, "class_head_weights": None, "trainer_name": "nnUNetTrainer", "init_args": {"configuration": "2d"},
        "inference_allowed_mirroring_axes": (0, 1)}


class Calls:
    def __reduce__(self):
        return print, ("ran",)


def refusal(path):
    with pytest.raises(InputError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert str(path) in message and "weights_only" not in message and "\n" not in message
    return message


def test_code_is_named_and_not_trusted(tmp_path, capsys):
    torch.save({"network_weights": Calls()}, tmp_path / "checkpoint_final.pth")
    message = refusal(tmp_path / "checkpoint_final.pth")
    assert "holds code" in message and "print" in message and "Do not trust it" in message and capsys.readouterr().out == ""


def test_a_file_of_something_else_says_what_it_holds(tmp_path):
    torch.save([torch.ones(2)], tmp_path / "checkpoint_final.pth")
    assert "holds list and not the parts of a checkpoint" in refusal(tmp_path / "checkpoint_final.pth")


@pytest.mark.parametrize("damage", [lambda c: c[:-1000], lambda c: c[:100], lambda c: b"", lambda c: b"x" * 500, lambda c: c[1000:]])
def test_a_damaged_file_names_the_checkpoints_beside_it(tmp_path, damage):
    save_checkpoint({"a": torch.arange(1000)}, tmp_path / "checkpoint_best.pth")
    content = (tmp_path / "checkpoint_best.pth").read_bytes()
    (tmp_path / "checkpoint_latest.pth").write_bytes(damage(content))
    message = refusal(tmp_path / "checkpoint_latest.pth")
    assert "cut short, damaged" in message and "go on from checkpoint_best.pth" in message


def test_without_another_checkpoint_the_training_starts_anew(tmp_path):
    (tmp_path / "checkpoint_latest.pth").write_bytes(b"x")
    assert "starts anew" in refusal(tmp_path / "checkpoint_latest.pth")


def test_an_archive_that_swells_is_refused(tmp_path):
    save_checkpoint({"a": torch.zeros(100_000)}, tmp_path / "c.pth")
    with zipfile.ZipFile(tmp_path / "c.pth") as source, zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert "compressed or overlap" in refusal(tmp_path / "bomb.pth")


@pytest.mark.parametrize("content", [None, [], 3, {}, GOOD | {"network_weights": {"w": 1}}, GOOD | {"network_weights": {}}, GOOD | {"init_args": None},
                                     GOOD | {"trainer_name": 3}, GOOD | {"inference_allowed_mirroring_axes": (7,)}, GOOD | {"class_head_weights": [1]}])
def test_other_contents_are_refused(content):
    with pytest.raises(InputError, match="final.pth"):
        check_contents(content, "final.pth")


def test_all_that_is_missing_is_named():
    with pytest.raises(InputError, match="network_weights.*trainer_name.*optimizer_state"):
        check_contents({"init_args": {"configuration": "2d"}}, "final.pth", also=("optimizer_state",))
    check_contents(GOOD, "final.pth")


def test_weights_that_are_no_numbers_are_named():
    weights = {"good": torch.full((4,), 3e38), "count": torch.tensor(3), "bad": torch.tensor([1.0, float("nan")]), "half": torch.tensor([float("inf")]).half()}
    with pytest.raises(InputError, match=r"x.pth: 2 of 4 weights are not finite \(bad, half\)"):
        refuse_non_finite(weights, "x.pth")


def test_pretrained_weights_need_weights(tmp_path):
    torch.save({"weights": 1}, tmp_path / "p.pth")
    with pytest.raises(InputError, match="p.pth holds no network_weights"):
        load_pretrained_weights(torch.nn.Linear(1, 1), tmp_path / "p.pth")


def test_a_full_disk_stays_the_systems_error():
    with pytest.raises(OSError) as caught:
        write_checkpoint({"a": torch.zeros(100_000)}, "/dev/full")
    assert caught.value.errno == errno.ENOSPC


def test_what_was_written_is_read(tmp_path):
    save_checkpoint(GOOD, tmp_path / "c.pth")
    again = load_checkpoint(tmp_path / "c.pth", lazy=True)
    assert torch.equal(again["network_weights"]["w"], torch.ones(2)) and again["init_args"] == GOOD["init_args"]
