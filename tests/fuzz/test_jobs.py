"""The campaign's runs: nothing that reads from outside is left out, and the same seed gives the same ones."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from experiments.campaigns.forked import REPOSITORY, console_scripts
from experiments.campaigns.world import abdomen, write_volume
from experiments.fuzz import array_damage, image_damage, json_damage, table_damage
from experiments.fuzz.commands import COMMANDS, KINDS
from experiments.fuzz.flags import WRONG_FLAGS, with_flag
from experiments.fuzz.jobs import all_jobs, thinned

# no input of a user goes into these: a command that fetches from the network, and one that waits for others' requests
OTHERWISE_TESTED = {
    "nnUNetv2_download_pretrained_model_by_url": "tests/dataset_conversion/test_conversion.py",
    "nnUNetv2_serve": "tests/inference",
}


@pytest.fixture(scope="module")
def jobs():
    return all_jobs("canary")


def test_every_console_script_is_in_the_campaign():
    assert console_scripts().keys() - {command.argv[0] for command in COMMANDS} <= OTHERWISE_TESTED.keys()


@pytest.mark.parametrize("room", ["data_prep", "evaluation", "report"])
def test_every_script_of_the_rooms_is_in_the_campaign(room):
    scripts = {
        str(file.relative_to(REPOSITORY)) for file in (REPOSITORY / room).glob("*.py") if '__name__ == "__main__"' in file.read_text()
    }
    assert scripts and scripts <= {command.argv[0] for command in COMMANDS}


def test_all_runs_have_names_of_their_own(jobs):
    assert len({job.key for job in jobs}) == len(jobs) > 400


def test_a_thinned_campaign_keeps_every_command_and_every_kind(jobs):
    chosen = thinned(jobs, 400, seed=0)
    assert len(chosen) == 400
    assert {job.command.name for job in chosen} == {job.command.name for job in jobs} and {job.what for job in chosen} == {
        job.what for job in jobs
    }


def test_the_same_seed_gives_the_same_runs(jobs):
    first, second, other = (([job.key for job in thinned(jobs, 100, seed)]) for seed in (3, 3, 4))
    assert first == second != other


def test_flags_belong_to_commands_that_exist():
    assert {wrong.command for wrong in WRONG_FLAGS} <= {command.name for command in COMMANDS}


def test_a_flag_is_exchanged_added_or_taken_by_its_place():
    assert with_flag(["x", "-f", "0"], "-f", "9") == ["x", "-f", "9"]
    assert with_flag(["x", "a"], "-f", "9") == ["x", "a", "-f", "9"]
    assert with_flag(["x", "a"], "", "b", 1) == ["x", "b"]


def apply(damage, path, content):
    """What the damage leaves: the new bytes, or None where no file that can be read is left."""
    path.write_bytes(content)
    damage.apply(path, np.random.default_rng(0), path.with_name("canary"))
    return path.read_bytes() if path.is_file() and not path.is_symlink() else None


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["image", "mask"])
def test_every_damage_changes_an_image(kind, tmp_path):
    whole = tmp_path / "whole.nii.gz"
    write_volume(abdomen(0)[kind == "mask"], whole)
    for number, damage in enumerate(KINDS[kind]):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        assert apply(damage, folder / "a.nii.gz", whole.read_bytes()) != whole.read_bytes(), damage.name


def test_damage_to_a_header_field_leaves_the_stream_whole(tmp_path):
    whole = tmp_path / "whole.nii.gz"
    write_volume(abdomen(0)[0], whole)
    for damage in image_damage.HEADER:
        changed = apply(damage, tmp_path / "a.nii.gz", whole.read_bytes())
        assert len(gzip.decompress(changed)) == len(gzip.decompress(whole.read_bytes())), damage.name


def test_every_general_damage_changes_json_and_tables(tmp_path):
    description = b'{"labels": {"background": 0, "a": 1}, "channel_names": {"0": "CT"}}'
    table = b"case,subtype\na,0\nb,1\nc,2\n"
    for content, damages in ((description, json_damage.ANY), (table, table_damage.TABLE), (b"\x80\x04}.", array_damage.PICKLE)):
        for number, damage in enumerate(damages):
            folder = tmp_path / f"{len(content)}_{number}"
            folder.mkdir()
            assert apply(damage, folder / "file", content) != content, damage.name


def test_a_pickle_that_runs_a_command_would_run_it(tmp_path):
    """The canary is real: a loader without a guard creates it."""
    import pickle

    damage = next(damage for damage in array_damage.PICKLE if damage.name == "that runs a command")
    pickle.loads(apply(damage, tmp_path / "x.pkl", b"\x80\x04}."))
    assert Path(tmp_path / "canary").exists()
