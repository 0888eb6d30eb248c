"""Dataset numbers and names: 777 <-> Dataset777_PancreasCT, looked up in the data folders that are set."""

from pathlib import Path

from nnunetv2 import paths
from nnunetv2.utilities.safe_names import plain_name


def names_with_id(dataset_id: int) -> list[str]:
    """Names of all datasets with this number in the data folders that are set, sorted."""
    return sorted({folder.name for folder in folders_with_id(dataset_id)})


def folders_with_id(dataset_id: int) -> list[Path]:
    """Folders `DatasetXXX_Name` with this number in the data folders that are set, sorted. `DatasetXXX` and `DatasetXXXName` count, as in nnU-Net."""
    folders = [path for path in map(paths.path_if_set, paths.VARIABLES) if path is not None and path.is_dir()]
    prefix = _prefix(dataset_id)
    return sorted({entry for folder in folders for entry in folder.iterdir()
                   if entry.name.startswith(prefix) and not entry.name[len(prefix):][:1].isdecimal() and entry.is_dir()})


def _prefix(dataset_id: int) -> str:
    return f"Dataset{dataset_id:03d}"


def convert_id_to_dataset_name(dataset_id: int) -> str:
    """The one `DatasetXXX_Name` with this number in nnUNet_raw, nnUNet_preprocessed or nnUNet_results.

    Raises FileNotFoundError when there is none, and ValueError when two names share the number.
    """
    names = names_with_id(dataset_id)
    if len(names) == 1:
        return names[0]
    looked_in = "\n".join(f"  {variable}={paths.path_if_set(variable)}" for variable in paths.VARIABLES)
    if names:
        raise ValueError(f"Several datasets share the number {dataset_id}: {', '.join(names)}. Give the name. Check the number and the variables; looked in:\n{looked_in}")
    raise FileNotFoundError(f"No dataset has the number {dataset_id}, no folder is named {_prefix(dataset_id)}*. Check the number and the variables; looked in:\n{looked_in}")


def convert_dataset_name_to_id(dataset_name: str) -> int:
    """777 for `Dataset777_PancreasCT`."""
    number = dataset_name.removeprefix("Dataset")[:3]
    if not dataset_name.startswith("Dataset") or not number.isdecimal():
        raise ValueError(f"{dataset_name!r} is not a dataset name; expected DatasetXXX_Name with a three-digit number.")
    return int(number)


def maybe_convert_to_dataset_name(dataset_name_or_id: int | str) -> str:
    """Accepts 777, "777" and "Dataset777_PancreasCT"; a name is taken as it is, without looking for its folder."""
    if isinstance(dataset_name_or_id, str) and dataset_name_or_id.startswith("Dataset"):
        return plain_name(dataset_name_or_id, "dataset", "-d")
    if not str(dataset_name_or_id).isdecimal():
        raise ValueError(f"{dataset_name_or_id!r} is neither a dataset number nor a name DatasetXXX_Name.")
    return convert_id_to_dataset_name(int(dataset_name_or_id))
