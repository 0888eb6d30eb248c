"""The reader names of plans and dataset.json, and what serves them here.

SimpleITKIO serves NibabelIO too: upstream's nibabel reader turns its arrays into SimpleITK's axis order, so voxels and
spacing are the same. The readers that reorient to RAS change the voxel order, and the 2D picture and TIFF readers take
formats outside this fork; their names end in an error that says so.
"""

from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.trusted_names import resolve

READERS = {"SimpleITKIO": SimpleITKIO, "NibabelIO": SimpleITKIO}
NOT_SUPPORTED = {
    "SimpleITKIOWithReorient": "it reorients to RAS; reorient the files once and use SimpleITKIO",
    "NibabelIOWithReorient": "it reorients to RAS; reorient the files once and use SimpleITKIO",
    "NaturalImage2DIO": "2D pictures are outside this fork; convert them to .nii.gz, one file a channel",
    "Tiff3DIO": "TIFF stacks are outside this fork; convert them to .nii.gz",
}


def reader_writer_by_name(name: str, where: object = "plans") -> type[SimpleITKIO]:
    """The class behind the `image_reader_writer` of plans: ours, or one of a package that the user trusts.

    InputError for others, and for upstream's readers that would read something else.
    """
    if isinstance(name, str) and name in NOT_SUPPORTED:
        raise InputError(f"{where}: image_reader_writer {name!r} cannot be used: {NOT_SUPPORTED[name]}.")
    return resolve(name, "image_reader_writer", where, READERS, lambda found: isinstance(found, type))


def reader_writer_name(dataset_json: dict) -> str:
    """The name that plans of this dataset carry: as declared in dataset.json, else by the file ending.

    `.nii` is NibabelIO's by default, as upstream has it, so that plans stay equal.
    """
    declared = dataset_json.get("overwrite_image_reader_writer", "None")
    if declared != "None":
        reader_writer_by_name(declared)
        return declared
    ending = dataset_json["file_ending"].lower()
    if ending not in SimpleITKIO.supported_file_endings:
        raise ValueError(f"dataset.json: no reader for file_ending {ending!r}; supported: {', '.join(SimpleITKIO.supported_file_endings)}.")
    return "NibabelIO" if ending == ".nii" else "SimpleITKIO"


def determine_reader_writer_from_dataset_json(dataset_json: dict) -> type[SimpleITKIO]:
    """The class that reads and writes this dataset's files."""
    return reader_writer_by_name(reader_writer_name(dataset_json))
