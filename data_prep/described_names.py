"""Print what scripts need to know of a data folder: a line each for its raw dataset, class task, file of the classes and banner.

    python data_prep/described_names.py data

A dash stands for what the data do not have.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.convert_quiz import table_name
from nnunetv2.utilities.commands import Parser, script
from nnunetv2.utilities.data_description import read_description
from nnunetv2.utilities.errors import InputError


@script
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("data", type=Path, help="folder with train/, validation/ and test/")
    data = parser.parse_args(arguments).data
    if not data.is_dir():
        raise InputError(f"{data} is not a folder. Check the path.")
    description = read_description(data)
    for text in (description.dataset, description.task, table_name(description), description.banner(synthetic=False)):
        print(" ".join(text.split()) if text else "-")


if __name__ == "__main__":
    main()
