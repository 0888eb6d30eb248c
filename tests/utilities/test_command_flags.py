"""Numbers on the command line are checked before anything is read."""

import os
import subprocess
import sys

import pytest

from nnunetv2.cli import datasets, inference, planning, results, training


@pytest.mark.parametrize(("command", "arguments", "flag"), [
    (inference.predict_from_modelfolder, ["-i", "x", "-o", "y", "-m", "z", "-npp", "-1"], "-npp"),
    (inference.predict_from_modelfolder, ["-i", "x", "-o", "y", "-m", "z", "-nps", "-1"], "-nps"),
    (inference.predict_from_modelfolder, ["-i", "x", "-o", "y", "-m", "z", "-step_size", "0"], "-step_size"),
    (inference.predict_from_modelfolder, ["-i", "x", "-o", "y", "-m", "z", "-num_parts", "0"], "-num_parts"),
    (inference.predict_from_modelfolder, ["-i", "x", "-o", "y", "-m", "z", "-f", "-3"], "-f"),
    (inference.predict_from_modelfolder, ["-i", "x", "-o", "y", "-m", "z", "-f", "x"], "-f"),
    (training.train, ["1", "2d", "0", "--epochs", "0"], "--epochs"), (training.train, ["1", "2d", "0", "--seed", "-1"], "--seed"),
    (training.train, ["1", "2d", "0", "-num_gpus", "0"], "-num_gpus"), (training.train, ["1", "2d", "zero"], "fold"),
    (planning.preprocess, ["-d", "1", "-np", "-2"], "-np"), (planning.plan_experiment, ["-d", "1", "-gpu_memory_target", "nan"], "-gpu_memory_target"),
    (planning.plan_experiment, ["-d", "1", "-overwrite_target_spacing", "1", "0", "1"], "-overwrite_target_spacing"),
    (results.evaluate_simple, ["a", "b", "-l", "-1"], "-l"), (results.plot_overlay_pngs, ["-d", "1", "-o", "x", "-overlay_intensity", "2"], "-overlay_intensity"),
    (training.train, ["1", "2d", "0", "-device", "tpu"], "-device"), (inference.serve, ["-m", "x", "--jobs", "y", "--keep", "0"], "--keep"),
    (datasets.convert_MSD_dataset, ["-i", "x", "-overwrite_id", "0"], "-overwrite_id")])
def test_numbers_out_of_range_end_the_command_with_one_line(command, arguments, flag, capsys):
    with pytest.raises(SystemExit) as caught:
        command(arguments)
    message = capsys.readouterr().err
    assert caught.value.code == 2 and message.startswith(f"error: argument {flag}") and len(message.splitlines()) == 1


@pytest.mark.slow
def test_a_process_count_of_the_environment_that_is_none_ends_a_command_with_one_line():
    code = "from nnunetv2.cli.results import evaluate_simple; evaluate_simple(['a', 'b', '-l', '1'])"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"nnUNet_def_n_proc": "0"}, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.splitlines() == ["error: The environment variable nnUNet_def_n_proc is '0'; it must be a whole number of at least 1."]


def test_a_command_in_a_folder_that_was_deleted_says_so(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(SystemExit, match="error: the current folder has been deleted. Change to one that is there"):
        results.evaluate_simple(["a", "b", "-l", "1"])
