"""One run in a folder at a time; the lock dies with its process."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nnunetv2.utilities import folder_lock as module
from nnunetv2.utilities.folder_lock import (
    FolderBusy,
    folder_lock,
    is_in_use,
    is_locked,
    lock_descriptor,
    prediction_lock,
    reading_lock,
    refuse_in_use,
)

REPOSITORY = Path(__file__).parents[2]
HOLDS = """
import sys, time
from nnunetv2.utilities.folder_lock import folder_lock
with folder_lock(sys.argv[1], "training", "fold 3 is trained"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, cwd=REPOSITORY)
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_second_run_is_refused_and_told_who_is_there(tmp_path, holder):
    with pytest.raises(FolderBusy, match=rf"{tmp_path} is in use .*process {holder.pid} on .*fold 3 is trained"):
        with folder_lock(tmp_path, "training", "again"):
            pass


def test_a_kill_frees_the_folder(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with folder_lock(tmp_path, "training", "again"):
        pass
    assert not list(tmp_path.iterdir())


def test_locks_of_other_names_do_not_meet(tmp_path):
    with folder_lock(tmp_path, "a", "one"), folder_lock(tmp_path, "b", "two"):
        assert is_locked(tmp_path / ".a.lock") and is_locked(tmp_path / ".b.lock")


def test_shared_locks_keep_a_lone_one_out_until_the_last_has_gone(tmp_path):
    with folder_lock(tmp_path, "a", "one", shared=True):
        with folder_lock(tmp_path, "a", "two", shared=True):
            pass
        with pytest.raises(FolderBusy), folder_lock(tmp_path, "a", "three"):
            pass
    with folder_lock(tmp_path, "a", "three"):
        pass
    assert not list(tmp_path.iterdir())


def test_an_error_inside_frees_the_folder(tmp_path):
    with pytest.raises(KeyError), folder_lock(tmp_path, "a", "one"):
        raise KeyError
    assert not is_locked(tmp_path / ".a.lock") and not list(tmp_path.iterdir())


def test_a_folder_made_for_the_lock_alone_does_not_stay(tmp_path):
    with folder_lock(tmp_path / "fold_0", "a", "one"):
        pass
    with folder_lock(tmp_path / "fold_1", "a", "one"):
        (tmp_path / "fold_1" / "checkpoint").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["fold_1"]


def test_without_locks_on_the_file_system_it_says_so_and_goes_on(tmp_path, monkeypatch, capsys):
    def refuse(descriptor, kind):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(module.fcntl, "flock", refuse)
    with folder_lock(tmp_path, "a", "one"), folder_lock(tmp_path, "a", "two"):
        pass
    assert f"{tmp_path} is on a file system without locks" in capsys.readouterr().err


def test_a_descriptor_keeps_its_lock_until_it_is_closed(tmp_path):
    first, second = (os.open(tmp_path / "run.lock", os.O_RDWR | os.O_CREAT) for _ in range(2))
    lock_descriptor(first, str(tmp_path), "main job")
    with pytest.raises(FolderBusy, match="main job"):
        lock_descriptor(second, str(tmp_path), "main job")
    os.close(first)
    lock_descriptor(second, str(tmp_path), "main job")
    os.close(second)


@pytest.mark.parametrize(("first", "second", "together"), [
    ((0, 1), (0, 1), False), ((0, 2), (1, 2), True), ((0, 2), (0, 2), False), ((0, 2), (1, 3), False), ((0, 1), (1, 2), False), ((1, 2), (0, 1), False)])
def test_predictions_share_a_folder_as_parts_of_one_division_alone(tmp_path, first, second, together):
    with prediction_lock(tmp_path, *first):
        if together:
            with prediction_lock(tmp_path, *second):
                pass
        else:
            with pytest.raises(FolderBusy), prediction_lock(tmp_path, *second):
                pass
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_written_to_is_not_read(tmp_path, holder):
    refuse_in_use([tmp_path])  # the holder trains, and predicts nothing here
    with pytest.raises(FolderBusy, match=f"process {holder.pid}"):
        refuse_in_use([tmp_path], "training")


def test_a_lock_that_may_not_be_opened_stops_no_reader(tmp_path, monkeypatch):
    (tmp_path / ".prediction.lock").touch()
    monkeypatch.setattr(module.os, "open", lambda *arguments: (_ for _ in ()).throw(PermissionError()))
    refuse_in_use([tmp_path])


def test_readers_share_a_folder_and_are_seen(tmp_path):
    with reading_lock(tmp_path, "training", "one"), reading_lock(tmp_path, "training", "two"):
        assert is_in_use(tmp_path, "training")
    assert not is_in_use(tmp_path, "training") and not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_that_may_not_be_written_to_is_read_without_a_lock(tmp_path, monkeypatch, number):
    monkeypatch.setattr(module.os, "open", lambda *arguments: (_ for _ in ()).throw(OSError(number, "no")))
    with reading_lock(tmp_path, "training", "one"):
        assert not list(tmp_path.iterdir())
