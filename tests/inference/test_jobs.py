"""The server's jobs without HTTP: stops, crashes, a disk that takes nothing."""

import shutil
import threading

import pytest

from nnunetv2.inference.serving.jobs import MAX_ATTEMPTS, Jobs, QueueFull
from nnunetv2.inference.watch import PredictionCancelled
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.files import load_json
from nnunetv2.utilities.folder_lock import FolderBusy

RESULT = {"class": "1"}


def working(image, mask, progress, cancelled):
    shutil.copyfile(image, mask)
    return RESULT


class Endless:
    """Work that ends when it is cancelled; `deaf`, when it is let go."""

    def __init__(self, deaf=False):
        self.begun, self.go, self.deaf = threading.Event(), threading.Event(), deaf

    def __call__(self, image, mask, progress, cancelled):
        self.begun.set()
        assert (self.go if self.deaf else cancelled).wait(10)
        raise PredictionCancelled


def submitted(jobs):
    job = jobs.reserve("a.nii.gz", ".nii.gz")
    jobs.image(job).write_bytes(b"x")
    jobs.submit(job)
    return job.id


def test_a_job_outlives_any_number_of_stops(tmp_path):
    job_id = None
    for _ in range(MAX_ATTEMPTS + 1):
        work = Endless()
        jobs = Jobs(tmp_path, work)
        job_id = job_id or submitted(jobs)
        assert work.begun.wait(10)
        jobs.close()
        jobs.close()  # as the server's end and its owner may both do
    jobs = Jobs(tmp_path, working)
    while jobs.get(job_id).status in ("queued", "running"):
        pass
    jobs.close()
    assert jobs.get(job_id).status == "done"


def test_a_stop_during_work_that_does_not_end_in_time_counts_as_none(tmp_path):
    work = Endless(deaf=True)
    jobs = Jobs(tmp_path, work)
    job_id = submitted(jobs)
    assert work.begun.wait(10)
    jobs.close(timeout=0)
    assert load_json(tmp_path / job_id / "job.json")["attempts"] == 0
    work.go.set()


def test_crashes_still_end_a_job_whatever_stops_lie_between(tmp_path):
    copies = tmp_path / "crashed"
    job_id, folder = None, tmp_path / "jobs"
    for is_crash in (True, False, True):
        work = Endless()
        jobs = Jobs(folder, work)
        job_id = job_id or submitted(jobs)
        assert work.begun.wait(10)
        if is_crash:  # the disk as a killed server leaves it
            shutil.copytree(folder, copies)
        jobs.close()
        if is_crash:
            shutil.rmtree(folder)
            copies.rename(folder)
    jobs = Jobs(folder, working)
    jobs.close()
    assert jobs.get(job_id).status == "failed" and "stopped 2 times" in jobs.get(job_id).error


def test_a_disk_that_takes_nothing_costs_no_place_in_the_queue(tmp_path):
    folder = tmp_path / "jobs"
    jobs = Jobs(folder, working, max_waiting=1)
    folder.rmdir()
    folder.write_text("no folder")
    for _ in range(3):
        with pytest.raises(OSError, match="jobs"):
            jobs.reserve("a.nii.gz", ".nii.gz")
    folder.unlink()
    jobs.reserve("a.nii.gz", ".nii.gz")
    with pytest.raises(QueueFull):
        jobs.reserve("b.nii.gz", ".nii.gz")
    jobs.close()


def test_of_folders_that_look_like_jobs_only_cut_off_arrivals_are_deleted(tmp_path):
    arrival, foreign = tmp_path / ("a" * 32), tmp_path / ("b" * 32)
    for folder, name in ((arrival, "image.nii.gz"), (foreign, "data.csv")):
        folder.mkdir()
        (folder / name).touch()
    with pytest.raises(InputError, match="b describes no job and holds data.csv"):
        Jobs(tmp_path, working)
    assert (foreign / "data.csv").is_file()
    shutil.rmtree(foreign)
    Jobs(tmp_path, working).close()
    assert not arrival.exists()


def test_a_second_server_on_the_same_folder_is_refused_and_harms_nothing(tmp_path):
    jobs = Jobs(tmp_path, working)
    arriving = jobs.reserve("a.nii.gz", ".nii.gz")
    jobs.image(arriving).write_bytes(b"half")
    with pytest.raises(FolderBusy, match=f"{tmp_path} is in use.*another nnUNetv2_serve"):
        Jobs(tmp_path, working)
    assert jobs.image(arriving).read_bytes() == b"half" and sorted(path.name for path in tmp_path.iterdir()) == [arriving.id]
    jobs.close()
    Jobs(tmp_path, working).close()


def test_a_folder_that_could_not_be_loaded_is_free_for_the_next_start(tmp_path):
    foreign = tmp_path / ("b" * 32)
    foreign.mkdir()
    (foreign / "data.csv").touch()
    with pytest.raises(InputError, match="describes no job"):
        Jobs(tmp_path, working)
    shutil.rmtree(foreign)
    Jobs(tmp_path, working).close()


def test_a_job_that_was_deleted_while_it_ran_does_not_come_back_after_a_kill(tmp_path):
    work, killed = Endless(deaf=True), tmp_path / "as a kill leaves it"
    jobs = Jobs(tmp_path / "jobs", work)
    job_id = submitted(jobs)
    assert work.begun.wait(10)
    jobs.remove(jobs.get(job_id))
    shutil.copytree(tmp_path / "jobs", killed)
    work.go.set()
    jobs.close()
    again = Jobs(killed, working)
    again.close()
    assert again.get(job_id) is None and not (killed / job_id).exists()


def test_a_kill_while_a_job_is_deleted_keeps_no_server_from_its_start(tmp_path, monkeypatch):
    jobs = Jobs(tmp_path, working)
    job_id = submitted(jobs)
    while jobs.get(job_id).status in ("queued", "running"):
        pass
    jobs.close()

    def killed(folder, ignore_errors):
        (folder / "job.json").unlink()

    monkeypatch.setattr(shutil, "rmtree", killed)
    jobs.remove(jobs.get(job_id))
    monkeypatch.undo()
    again = Jobs(tmp_path, working)
    again.close()
    assert again.get(job_id) is None and not (tmp_path / job_id).exists()


def test_an_error_with_half_a_character_is_told_and_read_again(tmp_path):
    def work(image, mask, progress, cancelled):
        raise InputError("a file called \udcff.dcm")

    for _ in range(2):
        jobs = Jobs(tmp_path, work)
        job_id = submitted(jobs)
        while jobs.get(job_id).status in ("queued", "running"):
            pass
        jobs.close()
        assert jobs.get(job_id).error == "a file called ?.dcm"
