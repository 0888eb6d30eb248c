"""The reader names of plans and dataset.json, and the classes behind them."""

import importlib
import os

import nnunetv2.imageio as room
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.trusted_names import name_of, resolve, with_own_files

READERS = {reader.__name__: reader for reader in (SimpleITKIO, SimpleITKIOWithReorient)}
_LATER = {  # imported when a dataset asks for them: their libraries take their time
    "NibabelIO": "nnunetv2.imageio.nibabel_reader_writer", "NibabelIOWithReorient": "nnunetv2.imageio.nibabel_reader_writer",
    "NaturalImage2DIO": "nnunetv2.imageio.natural_image_reader_writer", "Tiff3DIO": "nnunetv2.imageio.tif_reader_writer"}
_OF_ENDING = {".nii": "NibabelIO", ".png": "NaturalImage2DIO", ".bmp": "NaturalImage2DIO", ".tiff": "Tiff3DIO"} | {
    ending: "SimpleITKIO" for ending in SimpleITKIO.supported_file_endings if ending != ".nii"}
TIFF = ".tif"  # of pictures and of volumes: a file tells
KNOWN_ENDINGS = (*SimpleITKIO.supported_file_endings, *(ending for ending in (*_OF_ENDING, TIFF) if ending not in SimpleITKIO.supported_file_endings))


def reader_writer_by_name(name: str, where: object = "plans") -> type:
    """The class behind the `image_reader_writer` of plans: ours, one in a file below nnunetv2/imageio, or one of a package that the user trusts.

    InputError for others.
    """
    if isinstance(name, str) and name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    known = with_own_files(name, READERS | dict.fromkeys(_LATER), room, BaseReaderWriter)
    return resolve(name, "image_reader_writer", where, known, lambda found: isinstance(found, type))


def name_of_reader_writer(reader: type) -> str:
    """What plans call it, so that it is found again."""
    return name_of(reader, READERS)


def reader_writer_name(dataset_json: dict, example_file: str | os.PathLike | None = None) -> str:
    """The name that plans of this dataset carry: as declared in dataset.json, else by the file ending, `.tif` by an example file too.

    `.nii` is NibabelIO's by default, as upstream has it, so that plans stay equal.
    """
    declared = dataset_json.get("overwrite_image_reader_writer") or "None"
    if declared != "None":
        reader_writer_by_name(declared, "dataset.json, overwrite_image_reader_writer")
        return declared
    return name_of_ending(dataset_json["file_ending"], example_file)


def name_of_ending(file_ending: str, example_file: str | os.PathLike | None = None, where: object = "dataset.json") -> str:
    """The reader of files with this ending; `.tif` without an example file is taken for pictures."""
    ending = file_ending.lower()
    if ending == TIFF:
        return "Tiff3DIO" if example_file is not None and not _is_picture(example_file) else "NaturalImage2DIO"
    if ending not in _OF_ENDING:
        raise ValueError(f"{where}: no reader for file_ending {file_ending!r}; supported: {', '.join(KNOWN_ENDINGS)}. Correct it, or convert the images.")
    return _OF_ENDING[ending]


def refuse_unread_ending(file_ending: str, reader: type, where: object) -> None:
    """InputError when `reader`, a class, reads no files of this ending; one that names no endings reads all."""
    supported = getattr(reader, "supported_file_endings", None)
    if supported and file_ending.lower() not in supported:
        raise InputError(f"{where}: file_ending {file_ending!r} is none that {reader.__name__} reads ({', '.join(supported)}). Correct it.")


def _is_picture(path: str | os.PathLike) -> bool:
    try:
        reader_writer_by_name("NaturalImage2DIO")().read_images([path])
    except InputError:  # what it is then, the other reader tells
        return False
    return True


def determine_reader_writer_from_dataset_json(dataset_json_content: dict, example_file: str | os.PathLike | None = None,
                                              allow_nonmatching_filename: bool = False, verbose: bool = False) -> type:
    """The class that reads and writes this dataset's files. The last two are upstream's: a name that does not match is an error in any case."""
    return reader_writer_by_name(reader_writer_name(dataset_json_content, example_file))


def determine_reader_writer_from_file_ending(file_ending: str, example_file: str | os.PathLike | None = None,
                                             allow_nonmatching_filename: bool = False, verbose: bool = False) -> type:
    """The class that reads files with this ending; see `name_of_ending`."""
    return reader_writer_by_name(name_of_ending(file_ending, example_file, file_ending))


def recursive_find_reader_writer_by_name(rw_class_name: str) -> type:
    """As `reader_writer_by_name`."""
    return reader_writer_by_name(rw_class_name)
