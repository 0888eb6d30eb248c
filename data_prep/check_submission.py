"""Check a submission before anyone uploads it: names, geometry, type and labels of the masks, and the subtype table.

    python data_prep/check_submission.py NAME_results.zip --test data/test
    python data_prep/check_submission.py NAME_results.zip --test RAW/imagesTs --dataset RAW/dataset.json     # other data than the quiz's

DIR of --test holds the test images `quiz_NNN_0000.nii.gz`. The zip must hold `quiz_NNN.nii.gz` for each of them and
`subtype_results.csv` with the columns `Names,Subtype`, nothing else and no folders. All problems are listed at once and make
the exit status 1. With other data the table is `TASK_results.csv` with `Names,Task`, and there is none without a class task.
"""

import lzma
import sys
import tempfile
import zipfile
import zlib
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.case_checks import in_words, problem_list, run_parallel
from nnunetv2.imageio.checked_file import stored_type
from nnunetv2.imageio.geometry import grid_difference
from nnunetv2.imageio.label_values import shown_values, unexpected_labels
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, read_volume
from nnunetv2.utilities.commands import Parser, script, whole_number
from nnunetv2.utilities.csv_files import parse_csv
from nnunetv2.utilities.data_description import THE_QUIZ, DataDescription, description_of_dataset
from nnunetv2.utilities.errors import InputError
from nnunetv2.utilities.file_shapes import RawDatasetJson
from nnunetv2.utilities.files import is_there, load_json
from nnunetv2.utilities.image_listing import list_images

IMAGE_ENDING, MASK_ENDING = "_0000.nii.gz", ".nii.gz"
# What zipfile raises for a zip that is none, encrypted, packed in an unknown way, or damaged in its headers, names or members
UNREADABLE = (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError, zlib.error, lzma.LZMAError)


def find_test_images(folder: Path) -> dict[str, Path]:
    """{mask file name: image} of a folder of test images; InputError names what is none, and a folder without images."""
    return {file.name.removesuffix(IMAGE_ENDING) + MASK_ENDING: file for file in list_images(folder, IMAGE_ENDING)}


def table_of(description: DataDescription) -> str | None:
    """File name of the table of classes; None without a class task."""
    return f"{description.task}_results.csv" if description.task else None


def description_from(dataset: Path | None) -> DataDescription:
    """Of the data behind a converted dataset's dataset.json; without one the quiz's."""
    return THE_QUIZ if dataset is None else description_of_dataset(load_json(dataset, RawDatasetJson), dataset, values_alone=True)


def check_submission(archive: Path, test: Path, processes: int | None = None, description: DataDescription = THE_QUIZ) -> list[str]:
    """One line for each thing that is wrong with `archive`; empty when it is ready to hand in."""
    images, table_file = find_test_images(test), table_of(description)
    if is_there(archive) and not archive.is_file():
        return [f"{archive}: is no regular file; name the zip"]
    try:
        with zipfile.ZipFile(archive) as content:
            names = content.namelist()
            damaged = content.testzip()
            table = content.read(table_file) if table_file in names and damaged is None else None
    except UNREADABLE as error:
        return [f"{archive}: cannot be read as a zip ({str(error) or 'it ends early'}); make it again with make_submission.py"]
    if damaged:
        return [f"{archive}: {damaged} in it is damaged; make it again"]
    expected = {*images} | ({table_file} if table_file else set())
    allowed = f" and {table_file}" if table_file else ""
    problems = [f"{name}: is in the zip {n} times; keep one" for name, n in Counter(names).items() if n > 1]
    problems += [f"{name}: missing; add it" for name in sorted(expected - set(names))]
    problems += [f"{name}: does not belong there; only masks of test cases{allowed}, without folders"
                 for name in sorted(set(names) - expected)]
    present = [(name, images[name]) for name in sorted(set(names) & images.keys())]
    for found in run_parallel(partial(_check_mask, archive, description.label_values), present, "checking masks", processes):
        problems += found
    return problems + (check_table(table, set(images), description) if table is not None else [])


def _check_mask(archive: Path, labels: tuple[int, ...], member: tuple[str, Path]) -> list[str]:
    name, image_file = member
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(archive) as content:
        file = Path(content.extract(name, folder))
        try:
            values, properties = SimpleITKIO().read_seg(file)
            pixel = stored_type(file)
        except (OSError, ValueError) as error:
            return [str(error).replace(str(file), name)]
    problems = []
    if pixel != np.uint8:
        problems.append(f"{name}: stored as {pixel}, must be uint8 (8-bit unsigned integer)")
    if unexpected := unexpected_labels(values, labels):
        problems.append(f"{name}: values {shown_values(unexpected)}; only {in_words(labels)} are allowed")
    try:
        image, image_properties = read_volume(image_file)
    except (OSError, ValueError) as error:
        return [*problems, str(error)]
    difference = grid_difference(image_properties["sitk_stuff"], properties["sitk_stuff"], image.shape, values.shape[1:])
    return problems + ([f"{name} {difference} (its image)"] if difference else [])


def check_table(content: bytes, masks: set[str], description: DataDescription = THE_QUIZ) -> list[str]:
    """What is wrong with the table of classes: header, names (each mask once) and classes."""
    file, column = table_of(description), description.task.capitalize()
    columns = ["Names", column]
    try:
        table = parse_csv(content.decode("utf-8"), file, columns, only_these=True)
    except UnicodeDecodeError as error:
        return [f"{file}: not UTF-8 text ({error}); save it as UTF-8"]
    except InputError as error:
        return [str(error)]
    if table.columns != columns:  # the grader's reader may go by place
        return [f"{file}: first line is {','.join(table.columns)!r}, must be {','.join(columns)!r}"]
    body = [(row["Names"], row[column]) for row in table.rows]
    problems = [f"{file}: {name}: {column} {subtype!r} is none of {', '.join(description.classes)}; correct the row" for name, subtype in body
                 if subtype not in description.classes]
    listed = Counter(name for name, _ in body)
    problems += [f"{file}: {name} is listed {n} times; keep one row" for name, n in listed.items() if n > 1]
    problems += [f"{file}: {name} is missing; add its row" for name in sorted(masks - listed.keys())]
    return problems + [f"{file}: {name} is no mask of a test case; remove the row" for name in sorted(listed.keys() - masks)]


@script
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("archive", type=Path, metavar="NAME_results.zip")
    parser.add_argument("--test", type=Path, required=True, metavar="DIR", help="folder of the test images")
    parser.add_argument("--dataset", type=Path, help="dataset.json of other data than the quiz's")
    parser.add_argument("-np", "--processes", type=whole_number(0), help="default: one per core, at most 8")
    args = parser.parse_args(arguments)
    description = description_from(args.dataset)
    problems = check_submission(args.archive, args.test, args.processes, description)
    if not args.archive.name.endswith("_results.zip"):
        problems.append(f"{args.archive.name}: must be named NAME_results.zip")
    if problems:
        sys.exit(f"error: {args.archive} must not be handed in. {problem_list(problems)}")
    table = f" and {table_of(description)}" if description.task else ""
    print(f"{args.archive}: {len(find_test_images(args.test))} masks{table}, ready to hand in")


if __name__ == "__main__":
    main()
