"""Fetch a packed model from an address and install it."""

import hashlib
import os
import urllib.parse
import urllib.request
from pathlib import Path

from tqdm import tqdm

from nnunetv2 import paths
from nnunetv2.model_sharing.model_import import install_model_from_zip_file
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.leftovers import temporary_folder

CHUNK_BYTES = 2**20
TIMEOUT_S = 100


def download_file(url: str, local_filename: str | os.PathLike, chunk_size: int | None = CHUNK_BYTES, sha256: str | None = None) -> str:
    """Stream `url` (http or https) into a file and return the file's name.

    InputError when fewer bytes come than the server announced, or when the content is not the one that `sha256` names.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise InputError(f"{url!r} is no http or https address; install a local file with nnUNetv2_install_pretrained_model_from_zip.")
    digest, n_bytes = hashlib.sha256(), 0
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response, open(local_filename, "wb") as file:  # nosec B310  # scheme checked above
        announced = response.headers.get("Content-Length")
        with tqdm(total=None if announced is None else int(announced), unit="B", unit_scale=True, desc="downloading") as bar:
            while chunk := response.read(chunk_size or CHUNK_BYTES):
                file.write(chunk)
                digest.update(chunk)
                n_bytes += len(chunk)
                bar.update(len(chunk))
    if announced is not None and n_bytes != int(announced):
        raise InputError(f"{url}: {n_bytes} of {announced} bytes came. Run the command again.")
    if sha256 is not None and digest.hexdigest() != sha256.lower():
        raise InputError(f"{url}: the SHA-256 of what came is {digest.hexdigest()}, expected {sha256}. Do not use this file.")
    return str(local_filename)


def download_and_install_from_url(url: str, sha256: str | None = None) -> None:
    """Download into nnUNet_results, check, install, and leave no archive behind, whatever happens."""
    results = Path(paths.nnUNet_results)
    results.mkdir(parents=True, exist_ok=True)
    with temporary_folder(results, "download") as folder:
        install_model_from_zip_file(download_file(url, folder / "model.zip", sha256=sha256))
