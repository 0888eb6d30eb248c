"""Install a zip of trained models (ours or upstream's) into nnUNet_results."""

import lzma
import os
import zipfile
import zlib
from pathlib import Path

from nnunetv2 import paths
from nnunetv2.model_sharing.archive_checks import checked_members
from nnunetv2.utilities.files import refuse_irregular
from nnunetv2.utilities.folder_lock import refuse_in_use
from nnunetv2.utilities.leftovers import temporary_folder


def install_model_from_zip_file(zip_file: str | os.PathLike) -> None:
    """Unpack `zip_file`. Files of a model that is already there are replaced, its other files stay.

    Everything is unpacked and checked beside the target first, so a broken or refused archive changes nothing, and each
    file appears whole.

    Raises:
        ValueError: not a whole zip file, or one that holds other things than models, see `checked_members`; all are listed.
        FolderBusy: a fold of the model is being trained there.
    """
    target = Path(paths.nnUNet_results)
    target.mkdir(parents=True, exist_ok=True)
    refuse_irregular(zip_file, "Name the zip of a model.")
    try:
        with zipfile.ZipFile(zip_file) as archive, temporary_folder(target, "install") as temporary:
            archive.extractall(temporary, checked_members(archive, zip_file, target))  # checks each member's CRC
            files = {path: target / path.relative_to(temporary) for path in sorted(temporary.rglob("*")) if path.is_file()}
            refuse_in_use(sorted({destination.parent for destination in files.values()}), "training")
            for source, destination in files.items():
                destination.parent.mkdir(parents=True, exist_ok=True)
                os.replace(source, destination)
                print(f"Installed {destination}")
    except (zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, NotImplementedError) as error:
        raise ValueError(f"{zip_file} is not a whole zip file ({error}). Fetch it again.") from error
