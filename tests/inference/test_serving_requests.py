"""What requests to the server may look like, and what its answers must not tell."""

import errno
import shutil
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from nnunetv2.inference.serving.app import checked_token, segment_files
from nnunetv2.utilities.errors import InputError
from tests.inference.test_serving import serving
from tests.inference.tiny_model import smooth_ct, write_image


@pytest.mark.parametrize("token", ["geheimes-w\u00f6rtchen", "0123456789abcdef ", "\t0123456789abcdef", "0123456789\r\nabcdef", "0123456789abcde\udcff"])
def test_a_token_that_no_request_can_carry_is_refused_and_not_shown(token):
    with pytest.raises(InputError, match="nnUNet_serve_token begins or ends with a blank, or holds") as refused:
        checked_token("127.0.0.1", token)
    assert token not in str(refused.value)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_schemes_name_is_taken_in_any_case(tmp_path, scheme):
    with serving(tmp_path, token="a long enough secret") as server:
        assert server.call("GET", "/health", Authorization=f"{scheme} a long enough secret")[0] == 200
        assert server.call("GET", "/health", Authorization=f"{scheme} another secret")[0] == 401


@pytest.mark.parametrize(("host", "sent"), [("127.0.0.2", "127.0.0.2:8765"), ("::1", "[::1]:8765"), ("0:0:0:0:0:0:0:1", "[::1]"), ("localhost", "localhost")])
def test_the_address_that_is_listened_on_is_a_name_of_this_machine(tmp_path, host, sent):
    with serving(tmp_path, host=host) as server:
        assert server.call("GET", "/health", Host=sent)[0] == 200
        assert server.call("GET", "/health", Host="evil.example")[0] == 400


@pytest.mark.parametrize("kind", ["application/octet-stream; charset=binary", "Application/Octet-Stream"])
def test_the_type_of_the_file_is_taken_as_http_writes_it(tmp_path, kind):
    with serving(tmp_path) as server:
        assert server.submit(b"x", Content_Type=kind)[0] == 202


def test_files_that_somebody_deleted_are_not_found(tmp_path):
    with serving(tmp_path) as server:
        job = server.finished(server.submit(b"x")[1]["id"])["id"]
        for file in ("mask", "image"):
            (tmp_path / job / f"{file}.nii.gz").unlink()
            assert server.call("GET", f"/jobs/{job}/{file}")[0] == 404


class Vanishing(type(Path())):
    """A file that somebody deletes right after one has seen that it is there."""

    def is_file(self):
        found = super().is_file()
        self.unlink(missing_ok=True)
        return found


def test_a_file_that_is_deleted_while_it_is_asked_for_is_sent_whole_or_not_found(tmp_path):
    content = np.random.default_rng(0).bytes(2**20)
    with serving(tmp_path, max_bytes=2**21) as server:
        job = server.finished(server.submit(content)[1]["id"])["id"]
        mask = server.jobs.mask
        server.jobs.mask = lambda job: Vanishing(mask(job))
        assert server.call("GET", f"/jobs/{job}/mask") == (200, content)
        with urllib.request.urlopen(f"{server.address}/jobs/{job}/image", timeout=30) as response:
            begun = response.read(1000)
            assert server.call("DELETE", f"/jobs/{job}")[0] == 204
            assert begun + response.read() == content and response.headers["Content-Length"] == str(len(content))


@pytest.mark.slow
def test_senders_are_not_told_where_model_and_jobs_lie(predictor, model_folder, tmp_path):
    write_image(tmp_path / "far.nii.gz", smooth_ct(), spacing=(999.0, 999.0, 999.0))

    def work(image, mask, progress, cancelled):
        if image.suffix == ".nrrd":
            raise OSError(errno.ENOSPC, "No space left on device", str(mask))
        return segment_files(predictor)(image, mask, progress, cancelled)

    with serving(tmp_path / "jobs", work, max_bytes=2**20, private=[model_folder]) as server:
        large, full = server.submit((tmp_path / "far.nii.gz").read_bytes())[1], server.submit(b"x", "a.nrrd")[1]
        errors = [server.finished(job["id"])["error"] for job in (large, full)]
        shutil.rmtree(tmp_path / "jobs")
        (tmp_path / "jobs").write_text("no folder")
        errors.append(server.submit(b"x")[1]["detail"])
    assert errors[0].startswith("plans.json: ") and errors[1].startswith("mask.nii.gz: No space left") and len(errors[2]) > 20
    assert not any(str(place) in error for error in errors for place in (tmp_path, model_folder))
