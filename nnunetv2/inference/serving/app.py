"""The jobs over HTTP.

    POST   /jobs?name=scan.nii.gz   body: the file, application/octet-stream -> 202 {"id": ...}; a .zip holds one DICOM series
    GET    /jobs/ID                 status, progress, in the end class, probabilities and volumes
    GET    /jobs/ID/mask            the mask, NIfTI
    GET    /jobs/ID/image           what was sent; of a finished zip the image that was made of it
    DELETE /jobs/ID                 ends and deletes a job
    GET    /health                  model and number of jobs
    GET    /                        a page to drop a file on

With a token each call but the page carries `Authorization: Bearer TOKEN`.
"""

import asyncio
import hmac
import ipaddress
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, StreamingResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from nnunetv2.configuration import available_cores
from nnunetv2.imageio.checked_file import stored_voxels
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.serving.jobs import JOB_ID, Job, Jobs, QueueFull, refuse_large, result_of
from nnunetv2.inference.serving.zipped_dicom import image_of_zip
from nnunetv2.inference.watch import Progress
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.files import flush_to_disk
from nnunetv2.utilities.safe_names import name_problem

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".zip")
MAX_BYTES = 2**30
MAX_VOXELS = 2**29  # 512 x 512 x 2048
SECONDS_BETWEEN_CHUNKS = 60  # of an image that is being sent; then the sender counts as gone
CHUNK_BYTES = 2**18
SHORTEST_TOKEN = 16
PAGE = {"Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'", "X-Content-Type-Options": "nosniff"}


def segment_files(predictor: nnUNetPredictor, max_voxels: int = MAX_VOXELS) -> Callable[..., dict[str, Any]]:
    """The work of a job: read the image, write the mask, tell class and volumes."""

    def work(image: Path, mask: Path, progress: Callable[[Progress], None], cancelled: threading.Event) -> dict[str, Any]:
        if image.suffix == ".zip":
            packed, image = image, image_made_of(image)
            image_of_zip(packed, image, "CT" if "CT" in map(str.upper, predictor.dataset_json["channel_names"].values()) else None, max_voxels)
        reader = predictor.plans_manager.image_reader_writer_class()
        try:
            refuse_large(stored_voxels(image), max_voxels)
            array, properties = reader.read_images([image])
        except InputError as error:  # where the server keeps its files is not the sender's business
            raise InputError(str(error).replace(str(image), "The image")) from error
        result = predictor.predict_single_npy_array(array, properties, return_classification=True, progress=progress, cancelled=cancelled)
        reader.write_seg(result.mask, mask, result.properties)
        spared = None if result.roi is None else result.roi.not_segmented
        return result_of(result.class_name, result.class_probabilities, result.volumes_ml, spared, result.lesion_found)

    return work


def make_app(jobs: Jobs, model: str, token: str | None = None, max_bytes: int = MAX_BYTES, host: str = "127.0.0.1") -> FastAPI:
    """model: what /health calls it. host: the address that is listened on. Without a token only requests to this machine's own names are answered."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(jobs.close)

    def allowed(request: Request) -> None:
        scheme, _, given = (header := request.headers.get("authorization", "")).partition(" ")
        given = given.strip() if scheme.lower() == "bearer" else header  # the scheme's name is the same in any case
        if token is not None and not hmac.compare_digest(given.encode(), token.encode()):
            raise HTTPException(401, "This server wants its token: Authorization: Bearer TOKEN.", {"WWW-Authenticate": "Bearer"})

    def known(job_id: str) -> Job:
        job = jobs.get(job_id) if JOB_ID.fullmatch(job_id) else None
        if job is None:
            raise HTTPException(404, "There is no such job.")
        return job

    def stored(file: Path, name: str) -> StreamingResponse:
        try:
            opened = open(file, "rb")  # now: a deletion from here on takes the name away, not what is read
        except FileNotFoundError as error:
            raise HTTPException(404, f"The job's file {name} is not there any more. Send the image again.") from error
        headers = {"Content-Length": str(os.fstat(opened.fileno()).st_size), "Content-Disposition": f'attachment; filename="{name}"'}
        return StreamingResponse(_chunks(opened), media_type="application/octet-stream", headers=headers)

    app = FastAPI(title="nnUNetv2_serve", docs_url=None, redoc_url=None, lifespan=lifespan)
    if token is None:  # a page elsewhere whose name leads to this machine is not to use it
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]", in_address(host)])
    private = [Depends(allowed)]

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(Path(__file__).with_name("page.html"), headers=PAGE)

    @app.get("/viewer.js", include_in_schema=False)
    def viewer() -> FileResponse:
        return FileResponse(Path(__file__).with_name("viewer.js"), media_type="text/javascript", headers=PAGE)

    @app.get("/health", dependencies=private)
    def health() -> dict[str, Any]:
        return {"model": model, "jobs": jobs.counts(), "max_bytes": max_bytes, "endings": ENDINGS}

    @app.post("/jobs", status_code=202, dependencies=private)
    async def submit(request: Request, name: str) -> dict[str, Any]:
        ending = next((ending for ending in ENDINGS if name.lower().endswith(ending)), None)
        if ending is None or (problem := name_problem(name)) is not None:
            raise HTTPException(415, f"The name {name[:200]!r} {'does not end with ' + ', '.join(ENDINGS) if ending is None else problem}.")
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/octet-stream":  # forms of other pages cannot send this
            raise HTTPException(415, "Send the file as application/octet-stream.")
        too_large = HTTPException(413, f"The file has more than {max_bytes} bytes.")
        if int(request.headers.get("content-length", "0")) > max_bytes:
            raise too_large
        try:
            job = jobs.reserve(name, ending)
        except QueueFull as full:
            raise HTTPException(503, str(full), {"Retry-After": "30"}) from full
        except OSError as error:
            raise HTTPException(507, jobs.told(error)) from error
        try:
            await _receive(request, jobs.image(job), max_bytes, too_large)
            jobs.submit(job)
        except OSError as error:
            jobs.abandon(job)
            raise HTTPException(507, jobs.told(error)) from error
        except BaseException:
            jobs.abandon(job)
            raise
        return jobs.describe(job)

    @app.get("/jobs/{job_id}", dependencies=private)
    def status(job_id: str) -> dict[str, Any]:
        return jobs.describe(known(job_id))

    @app.get("/jobs/{job_id}/mask", dependencies=private)
    def mask(job_id: str) -> StreamingResponse:
        job = known(job_id)
        if job.status != "done":
            raise HTTPException(409, f"The job is {job.status}; its mask is there when it is done.")
        return stored(jobs.mask(job), "mask.nii.gz")

    @app.get("/jobs/{job_id}/image", dependencies=private)
    def image(job_id: str) -> StreamingResponse:
        sent = jobs.image(known(job_id))
        made = image_made_of(sent)
        return stored(made if made.is_file() else sent, "image")

    @app.delete("/jobs/{job_id}", status_code=204, dependencies=private)
    def delete(job_id: str) -> None:
        jobs.remove(known(job_id))

    return app


def image_made_of(sent: Path) -> Path:
    """Where the image lies that is made of a zip."""
    return sent.with_name("series.nii.gz")


def _chunks(opened: BinaryIO) -> Iterator[bytes]:
    with opened:
        while chunk := opened.read(CHUNK_BYTES):
            yield chunk


async def _receive(request: Request, path: Path, max_bytes: int, too_large: HTTPException) -> None:
    size, chunks = 0, request.stream()
    with open(path, "wb") as file:
        while True:
            try:
                chunk = await asyncio.wait_for(anext(chunks, None), SECONDS_BETWEEN_CHUNKS)
            except asyncio.TimeoutError as error:
                raise HTTPException(408, f"Nothing came for {SECONDS_BETWEEN_CHUNKS} s.") from error
            if chunk is None:
                break
            size += len(chunk)
            if size > max_bytes:
                raise too_large
            file.write(chunk)
    if size == 0:
        raise HTTPException(400, "The file is empty.")
    flush_to_disk(path)


def checked_token(host: str, token: str | None) -> str | None:
    """InputError for an address that others reach without a token of SHORTEST_TOKEN characters, and for a token that no request can carry."""
    if token is not None and len(token) < SHORTEST_TOKEN:
        raise InputError(f"nnUNet_serve_token has {len(token)} characters; take {SHORTEST_TOKEN} or more.")
    if token is not None and (not (token.isascii() and token.isprintable()) or token.strip() != token):
        raise InputError("nnUNet_serve_token begins or ends with a blank, or holds a character that is no printable ASCII: programs send those differently in a "
                         "header, or not at all. Take letters, digits and punctuation.")
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local and token is None:
        raise InputError(f"--host {host} lets other machines in: set the environment variable nnUNet_serve_token to a secret of {SHORTEST_TOKEN} or more "
                         "characters, which each call then carries, or leave --host at 127.0.0.1.")
    return token


def in_address(host: str) -> str:
    """`host` as it stands in a URL and in the header Host: IPv6 in brackets, in its short form."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return f"[{address.compressed}]" if address.version == 6 else host


def serve_model(model_folder: str | os.PathLike, folds: Sequence[int | str] | None, checkpoint: str, device: torch.device, mode: str, engine: str,
                folder: str | os.PathLike, host: str, port: int, max_waiting: int, keep: int, max_bytes: int) -> None:
    """Load a model and serve it until a signal ends it; jobs that are not finished then are done after the next start."""
    token = checked_token(host, os.environ.get("nnUNet_serve_token") or None)
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(available_cores())
    predictor = nnUNetPredictor(device=device, mode=mode, engine=engine, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(model_folder, folds, checkpoint)
    jobs = Jobs(Path(folder), segment_files(predictor), max_waiting, keep, [Path(model_folder)])
    print(f"http://{in_address(host)}:{port} segments with {model_folder}; jobs are kept in {folder}.")
    uvicorn.run(make_app(jobs, Path(model_folder).name, token, max_bytes, host), host=host, port=port, log_level="warning", timeout_graceful_shutdown=5)
