"""Jobs on disk and the one thread that works on them.

    FOLDER/JOB/image.nii.gz  job.json  mask.nii.gz

A job is there from the moment its image is whole. `job.json` is written last and atomically, so that a server that is killed goes on with
what it had not finished and still has what it had.
"""

import json
import os
import queue
import re
import secrets
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from nnunetv2.inference.watch import PredictionCancelled, Progress
from nnunetv2.utilities.errors import EXPECTED_ERRORS, InputError, in_one_message, name_some
from nnunetv2.utilities.file_shapes import FileShape, Finite, Text
from nnunetv2.utilities.files import load_json, save_json
from nnunetv2.utilities.folder_lock import hold_folder
from nnunetv2.utilities.leftovers import LEFTOVER, new_token, sweep

JOB_ID = re.compile(r"[0-9a-f]{32}")
UNFINISHED = ("queued", "running")
STATUSES = (*UNFINISHED, "done", "failed", "cancelled")
MAX_ATTEMPTS = 2  # an image during which the server died so often does it again; a server that was told to stop did not die


class QueueFull(Exception):
    """As many jobs wait as the server takes."""


@dataclass
class Job:
    """status: queued, running, done, failed or cancelled. Seconds since 1970. result: class, class_probabilities, lesion_found, volumes_ml."""

    id: str
    name: str  # the sender's file name, for people alone; no path is made of it
    ending: str
    status: str = "queued"
    submitted: float = 0.0
    finished: float | None = None
    attempts: int = 0
    error: str | None = None
    result: dict[str, Any] | None = None


class JobFile(FileShape):
    """job.json, which keeps a Job over a restart."""

    id: Text
    name: str
    ending: str
    status: str
    submitted: Finite
    finished: Finite | None
    attempts: int
    error: str | None
    result: dict[str, Any] | None


@dataclass
class _Running:
    job_id: str
    cancelled: threading.Event = field(default_factory=threading.Event)
    delete: bool = False
    stage: str = "read"
    done: int = 0
    of: int = 1


Work = Callable[[Path, Path, Callable[[Progress], None], threading.Event], dict[str, Any]]


class Jobs:
    """work: (image, where the mask goes, progress, cancelled) -> result. InputError and OSError are the job's failures, as is any other.

    max_waiting: jobs that may wait or be on their way in; more raise QueueFull. keep: finished jobs that stay; older ones are deleted.
    private: folders whose places the senders are not told, as that of the jobs.

    FolderBusy where another server has the folder: it would do the same jobs, and delete images that are on their way into the other.
    """

    def __init__(self, folder: Path, work: Work, max_waiting: int = 32, keep: int = 1000, private: Sequence[Path] = ()) -> None:
        self.folder, self._work, self._max_waiting, self._keep = folder, work, max_waiting, keep
        self._private = private
        self._lock, self._saving = threading.Lock(), threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._arriving: set[str] = set()
        self._waiting: queue.Queue[str | None] = queue.Queue()
        self._running: _Running | None = None
        self._closing = False
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock_of_folder = hold_folder(self.folder, "another nnUNetv2_serve keeps its jobs there")
        try:
            self._load()
        except BaseException:
            self._let_go()
            raise
        self._thread = threading.Thread(target=self._work_on_jobs, name="segment", daemon=True)
        self._thread.start()

    def image(self, job: Job) -> Path:
        return self.folder / job.id / f"image{job.ending}"

    def mask(self, job: Job) -> Path:
        return self.folder / job.id / "mask.nii.gz"

    def reserve(self, name: str, ending: str) -> Job:
        """A place for a job whose image is on its way; `submit` or `abandon` follows. OSError, and no place taken, where the disk has none."""
        with self._lock:
            if len(self._arriving) + sum(job.status == "queued" for job in self._jobs.values()) >= self._max_waiting:
                raise QueueFull(f"{self._max_waiting} images wait already. Try again later.")
            job = Job(secrets.token_hex(16), name, ending, submitted=time.time())
            self._arriving.add(job.id)
        try:
            (self.folder / job.id).mkdir(parents=True)
        except BaseException:
            self.abandon(job)
            raise
        return job

    def submit(self, job: Job) -> None:
        """The image of a reserved job is whole."""
        self._save(job)
        with self._lock:
            self._arriving.discard(job.id)
            self._jobs[job.id] = job
        self._waiting.put(job.id)

    def abandon(self, job: Job) -> None:
        """The image of a reserved job does not come."""
        self._delete_files(job)
        with self._lock:
            self._arriving.discard(job.id)
            self._jobs.pop(job.id, None)

    def get(self, job_id: str) -> Job | None:
        return self._jobs.get(job_id)

    def counts(self) -> dict[str, int]:
        """Jobs by status."""
        with self._lock:
            statuses = [job.status for job in self._jobs.values()]
        return {status: statuses.count(status) for status in STATUSES}

    def describe(self, job: Job) -> dict[str, Any]:
        """What the sender may know, progress included."""
        description = {key: value for key, value in asdict(job).items() if key not in ("ending", "attempts")}
        running = self._running
        if running is not None and running.job_id == job.id:
            description |= {"stage": running.stage, "done": running.done, "of": running.of}
        if job.status == "queued":
            description["ahead"] = sum(other.status in UNFINISHED and other.submitted < job.submitted for other in list(self._jobs.values()))
        return description

    def told(self, error: BaseException, job: Job | None = None) -> str:
        """What its sender reads of an error: names of files, and not where the server keeps them."""
        text = in_one_message(error) if isinstance(error, EXPECTED_ERRORS) else f"{type(error).__name__}: {error}"
        places = [self.folder, *self._private] if job is None else [self.folder / job.id, self.folder, *self._private]
        for place in dict.fromkeys(form for folder in places for form in (folder.resolve(), folder.absolute(), folder) if form.name):
            whole = rf"(?<![\w.-]){re.escape(str(place))}"  # not the end of a longer word: a folder may be called m
            text = re.sub(rf"{whole}(?![\w-])", lambda _, name=place.name: name, re.sub(whole + re.escape(os.sep), "", text))
        return text

    def remove(self, job: Job) -> None:
        """End a job that is not finished, and delete all of it."""
        with self._lock:
            running = self._running
            if running is not None and running.job_id == job.id:
                job.status, running.delete = "cancelled", True  # by its thread, once it has ended
                self._save_if_possible(job)  # or by the next start, should the server be killed before
                running.cancelled.set()
                return
            self._jobs.pop(job.id, None)
        self._delete_files(job)

    def _delete_files(self, job: Job) -> None:
        """At once for every reader: a kill half way leaves a folder that the next start sweeps, and no half of a job."""
        folder = self.folder / job.id
        try:
            folder = folder.rename(folder.with_name(f".job.{new_token()}"))
        except OSError:  # it is gone, or its name cannot be changed here
            pass
        shutil.rmtree(folder, ignore_errors=True)

    def close(self, timeout: float = 30.0) -> None:
        """Stop between two windows of the network; the job that runs is begun again at the next start."""
        with self._lock:
            is_first, self._closing, running = not self._closing, True, self._running
            job = None if running is None else self._jobs.get(running.job_id)
        if is_first and job is not None and job.status == "running":
            job.attempts -= 1  # at once: the thread may be in a step that outlives the timeout
            self._save_if_possible(job)
        if running is not None:
            running.cancelled.set()
        self._waiting.put(None)
        self._thread.join(timeout)
        if not self._thread.is_alive():  # else it may still write, and the lock ends with the process
            self._let_go()

    def _let_go(self) -> None:
        descriptor, self._lock_of_folder = self._lock_of_folder, None
        if descriptor is not None:
            os.close(descriptor)

    def _load(self) -> None:
        sweep(self.folder)
        found = []
        for folder in self.folder.iterdir():
            if not JOB_ID.fullmatch(folder.name) or not folder.is_dir():
                continue
            if not (folder / "job.json").is_file():  # killed while its image came in
                if foreign := sorted(path.name for path in folder.iterdir() if not _is_of_arrival(path)):
                    raise InputError(f"{folder} describes no job and holds {name_some(foreign)}; move it away, or name another folder for the jobs.")
                shutil.rmtree(folder, ignore_errors=True)
                continue
            found.append(_job_from(folder / "job.json"))
        for job in sorted(found, key=lambda job: job.submitted):
            if job.status == "cancelled":  # deleted while it ran
                self._delete_files(job)
                continue
            self._jobs[job.id] = job
            if job.status not in UNFINISHED:
                continue
            if job.attempts >= MAX_ATTEMPTS:
                self._finish(job, "failed", error=f"The server stopped {job.attempts} times while it worked on this image.")
            else:
                job.status = "queued"
                self._waiting.put(job.id)

    def _work_on_jobs(self) -> None:
        while (job_id := self._waiting.get()) is not None:
            with self._lock:
                if self._closing:
                    return
                job = self._jobs.get(job_id)
                if job is None:  # deleted while it waited
                    continue
                self._running = running = _Running(job_id)
                job.status, job.attempts = "running", job.attempts + 1
            try:
                self._save(job)
                result = self._work(self.image(job), self.mask(job), partial(self._note, running), running.cancelled)
                self._finish(job, "done", result=result)
            except PredictionCancelled:
                pass  # deleted below, or done after the next start
            except EXPECTED_ERRORS as error:
                self._finish(job, "failed", error=self.told(error, job))
            except Exception as error:
                traceback.print_exc()
                self._finish(job, "failed", error=self.told(error, job))
            with self._lock:
                self._running = None
            if running.delete:
                self.remove(job)
            self._drop_old()

    @staticmethod
    def _note(running: _Running, progress: Progress) -> None:
        running.stage, running.done, running.of = progress.stage, progress.done, progress.of

    def _finish(self, job: Job, status: str, result: dict[str, Any] | None = None, error: str | None = None) -> None:
        if error is not None:  # halves of characters, as names of files may have them, go into no answer and no JSON that is read again
            error = error.encode("utf-8", "replace").decode()
        job.result, job.error, job.finished, job.status = result, error, time.time(), status
        self._save_if_possible(job)

    def _save_if_possible(self, job: Job) -> None:
        try:
            self._save(job)
        except OSError as failure:  # the job stays in memory, and is done again after a restart
            print(f"job {job.id}: {in_one_message(failure)}", file=sys.stderr)

    def _save(self, job: Job) -> None:
        with self._saving:  # one after the other, so that the file holds the latest
            save_json(asdict(job), self.folder / job.id / "job.json")

    def _drop_old(self) -> None:
        finished = [job for job in list(self._jobs.values()) if job.status not in UNFINISHED]
        for job in sorted(finished, key=lambda job: job.finished or 0)[: max(0, len(finished) - self._keep)]:
            self.remove(job)


def _is_of_arrival(path: Path) -> bool:
    """Whether the server itself left it of an image that was on its way."""
    return path.name.startswith("image.") or LEFTOVER.fullmatch(path.name) is not None


def _job_from(path: Path) -> Job:
    """InputError for a file that is no job's."""
    content = load_json(path, JobFile)
    wanted = {entry.name for entry in fields(Job)}
    if set(content) != wanted or content["id"] != path.parent.name or content["status"] not in STATUSES:
        raise InputError(f"{path} describes no job; move the folder {path.parent} away.")
    return Job(**content)


def result_of(name: str | None, probabilities: dict[str, float], volumes: dict[str, float], spared: float | None,
              lesion_found: bool | None = None) -> dict[str, Any]:
    """JSON of a finished job."""
    result = {"class": name, "class_probabilities": probabilities, "lesion_found": lesion_found, "volumes_ml": volumes, "not_segmented": spared}
    json.dumps(result, allow_nan=False)
    return result


def refuse_large(n_voxels: int, max_voxels: int) -> None:
    """InputError for an image whose header promises more than the server takes, before its voxels are read."""
    if n_voxels > max_voxels:
        raise InputError(f"The image has {n_voxels} voxels; this server takes up to {max_voxels}.")
