"""The server over real HTTP, with the tiny model and with stand-ins that are slow or fail on demand."""

import gc
import json
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import SimpleITK as sitk
import uvicorn

from nnunetv2.cli.inference import serve
from nnunetv2.inference.serving.app import checked_token, make_app, segment_files
from nnunetv2.inference.serving.jobs import Jobs, QueueFull
from nnunetv2.inference.watch import PredictionCancelled, Progress
from nnunetv2.utilities.errors import InputError

RESULT = {"class": "1", "class_probabilities": {"0": 0.2, "1": 0.8}, "volumes_ml": {"lesion": 1.5}, "not_segmented": None}


def copying(image, mask, progress, cancelled):
    """Work that costs nothing: the mask is the image's bytes."""
    shutil.copyfile(image, mask)
    return RESULT


class Server:
    def __init__(self, address, jobs):
        self.address, self.jobs = address, jobs

    def call(self, method, path, body=None, **headers):
        """(status, content)."""
        headers = {"Content-Type": "application/octet-stream"} | {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.address + path, body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def submit(self, content, name="scan.nii.gz", **headers):
        status, answer = self.call("POST", f"/jobs?name={name}", content, **headers)
        return status, json.loads(answer)

    def finished(self, job_id):
        for _ in range(600):
            job = json.loads(self.call("GET", f"/jobs/{job_id}")[1])
            if job["status"] not in ("queued", "running"):
                return job
            time.sleep(0.02)
        raise TimeoutError(job)


@contextmanager
def serving(folder, work=copying, token=None, max_bytes=10_000, host="127.0.0.1", **options):
    jobs = Jobs(folder, work, **options)
    server = uvicorn.Server(uvicorn.Config(make_app(jobs, "tiny", token, max_bytes, host), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Server(f"http://127.0.0.1:{port}", jobs)
    finally:
        server.should_exit = True
        thread.join(10)
        jobs.close()


@pytest.mark.slow
def test_an_image_gets_its_mask_class_and_volumes(predictor, image_folder, tmp_path):
    path = image_folder / "case_0_0000.nii.gz"
    expected = predictor.predict_sitk_images(sitk.ReadImage(str(path)))
    with serving(tmp_path / "jobs", segment_files(predictor), max_bytes=2**20) as server:
        status, job = server.submit(path.read_bytes())
        assert status == 202
        job = server.finished(job["id"])
        assert job["status"] == "done" and job["result"]["class"] == expected.class_name
        assert job["result"]["volumes_ml"] == pytest.approx(expected.volumes_ml)
        (tmp_path / "mask.nii.gz").write_bytes(server.call("GET", f"/jobs/{job['id']}/mask")[1])
        assert server.call("GET", f"/jobs/{job['id']}/image")[1] == path.read_bytes()
    mask = sitk.ReadImage(str(tmp_path / "mask.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(mask), expected.mask) and mask.GetSpacing() == sitk.ReadImage(str(path)).GetSpacing()


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"no image", b"\x1f\x8b", b"0" * 400])
def test_what_is_no_image_fails_with_a_reason(predictor, tmp_path, content):
    with serving(tmp_path, segment_files(predictor)) as server:
        job = server.finished(server.submit(content)[1]["id"])
        assert job["status"] == "failed" and job["error"].startswith("The image") and str(tmp_path) not in job["error"]
        assert server.call("GET", f"/jobs/{job['id']}/mask")[0] == 409


def test_an_image_that_promises_too_many_voxels_is_not_read(predictor, image_folder, tmp_path):
    with serving(tmp_path, segment_files(predictor, max_voxels=6239), max_bytes=2**20) as server:
        job = server.finished(server.submit((image_folder / "case_0_0000.nii.gz").read_bytes())[1]["id"])
        assert job["error"] == "The image has 6240 voxels; this server takes up to 6239."


@pytest.mark.slow
@pytest.mark.parametrize(("path", "content", "headers", "status"), [
    ("/jobs?name=a.nii.gz", b"x" * 10_001, {}, 413), ("/jobs?name=a.nii.gz", b"", {}, 400), ("/jobs?name=a.exe", b"x", {}, 415),
    ("/jobs?name=..%2Fa.nii.gz", b"x", {}, 415), ("/jobs?name=a%0A.nii.gz", b"x", {}, 415), ("/jobs?name=a.rar", b"x", {}, 415),
    ("/jobs?name=a.nii.gz", b"x", {"Content_Type": "text/plain"}, 415), ("/jobs", b"x", {}, 422)])
def test_what_the_server_does_not_take_leaves_nothing(tmp_path, path, content, headers, status):
    with serving(tmp_path) as server:
        assert server.call("POST", path, content, **headers)[0] == status
        assert list(tmp_path.iterdir()) == [] and server.jobs.counts()["queued"] == 0


def test_a_body_without_length_is_cut_at_the_limit(tmp_path):
    with serving(tmp_path) as server:
        assert server.call("POST", "/jobs?name=a.nii.gz", iter([b"x" * 6000] * 2))[0] == 413
        assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/jobs/0", f"/jobs/{'0' * 32}", "/jobs/..%2F..%2Fetc", f"/jobs/{'0' * 32}/mask"])
def test_a_job_that_is_none_is_not_found(tmp_path, path):
    with serving(tmp_path) as server:
        assert server.call("GET", path)[0] == 404


def test_another_name_for_this_machine_is_refused_without_a_token(tmp_path):
    with serving(tmp_path) as server:
        assert server.call("GET", "/health", Host="evil.example")[0] == 400


def test_with_a_token_each_call_needs_it_and_the_page_does_not(tmp_path):
    token = "a long enough secret"
    with serving(tmp_path, token=token) as server:
        assert [server.call("GET", path)[0] for path in ("/", "/viewer.js", "/health", f"/jobs/{'0' * 32}")] == [200, 200, 401, 401]
        assert server.submit(b"x")[0] == 401 and server.submit(b"x", Authorization="Bearer wrong")[0] == 401
        assert server.submit(b"x", Authorization=f"Bearer {token}")[0] == 202


@pytest.mark.parametrize(("host", "token", "fine"), [
    ("127.0.0.1", None, True), ("::1", None, True), ("localhost", None, True), ("0.0.0.0", None, False), ("::", None, False), ("example.org", None, False),
    ("0.0.0.0", "a long enough secret", True), ("127.0.0.1", "short", False)])
def test_other_machines_are_let_in_with_a_token_alone(host, token, fine):
    if fine:
        assert checked_token(host, token) == token
        return
    with pytest.raises(InputError, match="nnUNet_serve_token"):
        checked_token(host, token)


class Held:
    """Work that waits until it is let go, or cancelled."""

    def __init__(self):
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self, image, mask, progress, cancelled):
        progress(Progress("the image", 0, 1, "network", 3, 7))
        self.begun.set()
        while not self.go.wait(0.01):
            if cancelled.is_set():
                raise PredictionCancelled
        return copying(image, mask, progress, cancelled)


def test_progress_and_place_in_the_queue_are_told(tmp_path):
    work = Held()
    with serving(tmp_path, work) as server:
        first, second = (server.submit(b"x")[1]["id"] for _ in range(2))
        assert work.begun.wait(5)
        running, queued = (json.loads(server.call("GET", f"/jobs/{job}")[1]) for job in (first, second))
        assert (running["status"], running["stage"], running["done"], running["of"]) == ("running", "network", 3, 7)
        assert (queued["status"], queued["ahead"]) == ("queued", 1)
        work.go.set()
        assert server.finished(second)["status"] == "done"


def test_a_full_queue_turns_away_and_takes_again(tmp_path):
    work = Held()
    with serving(tmp_path, work, max_waiting=2) as server:
        ids = [server.submit(b"x")[1]["id"]]
        assert work.begun.wait(5)
        ids += [server.submit(b"x")[1]["id"] for _ in range(2)]
        assert server.submit(b"x")[0] == 503
        work.go.set()
        assert [server.finished(job)["status"] for job in ids] == ["done"] * 3
        assert server.submit(b"x")[0] == 202


def test_a_job_is_deleted_while_it_waits_runs_or_is_done(tmp_path):
    work = Held()
    with serving(tmp_path, work) as server:
        running, waiting, done = (server.submit(b"x")[1]["id"] for _ in range(3))
        assert work.begun.wait(5)
        assert [server.call("DELETE", f"/jobs/{job}")[0] for job in (waiting, running)] == [204, 204]
        work.go.set()
        server.finished(done)
        assert server.call("DELETE", f"/jobs/{done}")[0] == 204
        assert [server.call("GET", f"/jobs/{job}")[0] for job in (running, waiting, done)] == [404] * 3
    assert list(tmp_path.iterdir()) == []


def test_a_failure_nobody_foresaw_costs_its_job_alone(tmp_path):
    def work(image, mask, progress, cancelled):
        if image.read_bytes() == b"bad":
            raise KeyError("no such thing")
        return copying(image, mask, progress, cancelled)

    with serving(tmp_path, work) as server:
        bad, good = server.submit(b"bad")[1]["id"], server.submit(b"good")[1]["id"]
        assert server.finished(good)["status"] == "done" and server.finished(bad)["error"] == "KeyError: 'no such thing'"


def test_a_restart_keeps_finished_jobs_and_does_the_others(tmp_path):
    work = Held()
    work.go.set()
    with serving(tmp_path, work) as server:
        done = server.submit(b"done")[1]["id"]
        server.finished(done)
        work.go.clear()
        work.begun.clear()
        running = server.submit(b"running")[1]["id"]
        assert work.begun.wait(5)
        waiting = server.submit(b"waiting")[1]["id"]
    (tmp_path / ("a" * 32)).mkdir()  # killed while its image came in
    with serving(tmp_path) as server:
        assert [server.finished(job)["result"] for job in (done, running, waiting)] == [RESULT] * 3
        assert [server.call("GET", f"/jobs/{job}/mask")[1] for job in (done, running, waiting)] == [b"done", b"running", b"waiting"]
    assert not (tmp_path / ("a" * 32)).exists()


def test_an_image_that_stopped_the_server_twice_is_not_tried_again(tmp_path):
    jobs = Jobs(tmp_path, copying)
    job = jobs.reserve("a.nii.gz", ".nii.gz")
    jobs.close()
    jobs.image(job).write_bytes(b"x")
    job.status, job.attempts = "running", 2
    jobs.submit(job)
    again = Jobs(tmp_path, copying)
    again.close()
    assert again.get(job.id).status == "failed" and "stopped 2 times" in again.get(job.id).error


@pytest.mark.parametrize("content", ["[]", "{}", "{", '{"id": "x"}'])
def test_a_folder_that_holds_no_job_is_named(tmp_path, content):
    folder = tmp_path / ("b" * 32)
    folder.mkdir()
    (folder / "job.json").write_text(content)
    with pytest.raises(InputError, match=str(folder)):
        Jobs(tmp_path, copying)


def test_the_command_refuses_other_machines_before_it_loads_a_model(tmp_path, monkeypatch):
    monkeypatch.delenv("nnUNet_serve_token", raising=False)
    with pytest.raises(SystemExit, match="^error: --host 0.0.0.0 lets other machines in"):
        serve(["-m", str(tmp_path / "none"), "--jobs", str(tmp_path / "jobs"), "--host", "0.0.0.0", "-device", "cpu"])


def test_a_port_that_is_none_is_refused_before_the_model_is_loaded(capsys):
    with pytest.raises(SystemExit):
        serve(["-m", "model", "--jobs", "jobs", "-device", "cpu", "--port", "65536"])
    assert "argument --port" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--port", "--max_waiting", "--keep", "--max_mib"])
def test_numbers_of_the_command_start_at_one(tmp_path, capsys, flag):
    with pytest.raises(SystemExit):
        serve(["-m", "model", "--jobs", "jobs", "-device", "cpu", flag, "0"])
    assert f"argument {flag}" in capsys.readouterr().err


def test_old_finished_jobs_go(tmp_path):
    with serving(tmp_path, keep=2) as server:
        ids = [server.submit(b"x")[1]["id"] for _ in range(4)]
        server.finished(ids[-1])
        time.sleep(0.1)
        assert [server.call("GET", f"/jobs/{job}")[0] for job in ids] == [404, 404, 200, 200]


@pytest.mark.slow
def test_200_images_8_at_once_are_all_done_and_memory_stays(tmp_path):
    def send(i):
        content = f"image {i}".encode()
        while (answer := server.submit(content))[0] == 503:
            time.sleep(0.02)
        job = server.finished(answer[1]["id"])
        assert job["status"] == "done" and server.call("GET", f"/jobs/{job['id']}/mask")[1] == content
        assert server.call("DELETE", f"/jobs/{job['id']}")[0] == 204

    with serving(tmp_path, max_waiting=4) as server, ThreadPoolExecutor(8) as pool:
        list(pool.map(send, range(40)))
        gc.collect()
        before = len(gc.get_objects())
        list(pool.map(send, range(40, 200)))
        gc.collect()
        assert len(gc.get_objects()) - before < 160  # less than one object a request
        assert sum(server.jobs.counts().values()) == 0
    assert list(tmp_path.iterdir()) == []


def test_reserving_counts_images_on_their_way(tmp_path):
    jobs = Jobs(tmp_path, copying, max_waiting=1)
    job = jobs.reserve("a.nii.gz", ".nii.gz")
    with pytest.raises(QueueFull):
        jobs.reserve("b.nii.gz", ".nii.gz")
    jobs.abandon(job)
    jobs.abandon(jobs.reserve("b.nii.gz", ".nii.gz"))
    jobs.close()


def test_a_disk_that_takes_nothing_is_said_and_costs_no_place(tmp_path):
    with serving(tmp_path / "jobs", max_waiting=1) as server:
        (tmp_path / "jobs").rmdir()
        (tmp_path / "jobs").write_text("no folder")
        assert [server.submit(b"x")[0] for _ in range(2)] == [507, 507]
        (tmp_path / "jobs").unlink()
        assert server.submit(b"x")[0] == 202


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_the_page_shows_class_volumes_and_mask(predictor, image_folder, tmp_path):
    path = image_folder / "case_0_0000.nii.gz"
    with serving(tmp_path / "jobs", segment_files(predictor), max_bytes=2**20) as server:
        job = server.finished(server.submit(path.read_bytes(), "patient.nii.gz")[1]["id"])
        (tmp_path / "mask.nii.gz").write_bytes(server.call("GET", f"/jobs/{job['id']}/mask")[1])
        voxels = int((sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "mask.nii.gz"))) > 0).sum())
        for patience in (8_000, 30_000, 60_000):  # virtual milliseconds, which pass while a busy machine has not answered yet
            page = subprocess.run(["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}",
                                   f"--virtual-time-budget={patience}", "--dump-dom", f"{server.address}/?job={job['id']}"],
                                  capture_output=True, text=True, timeout=120).stdout
            if "data-mask-voxels" in page:
                break
    assert f'data-mask-voxels="{voxels}"' in page and "Done: patient.nii.gz" in page
    assert f"<td>class</td><td>{job['result']['class']}</td>" in page and '<canvas id="canvas" width="24" height="26">' in page
