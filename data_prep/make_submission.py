"""Pack predicted masks and their subtype table into NAME_results.zip, which exists only if it passes all checks.

    python data_prep/make_submission.py --pred results/fold0/predictions/test --test data/test --name MYTEAM --out results/fold0

The same predictions give the same bytes.
"""

import sys
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.case_checks import problem_list
from data_prep.check_submission import MASK_ENDING, check_submission, description_from, find_test_images, table_of
from nnunetv2.utilities.commands import Parser, script, whole_number
from nnunetv2.utilities.data_description import THE_QUIZ, DataDescription
from nnunetv2.utilities.files import atomic_write
from nnunetv2.utilities.folder_lock import refuse_in_use
from nnunetv2.utilities.safe_names import plain_name

LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the earliest date a zip can hold


def make_submission(predictions: Path, test: Path, archive: Path, processes: int | None = None, description: DataDescription = THE_QUIZ) -> None:
    """Write `archive` from the masks of the cases in `test`; other files beside them stay out.

    Raises ValueError that lists all problems; a former `archive` is then left as it was.
    """
    refuse_in_use([predictions])
    files = [predictions / name for name in [*sorted(find_test_images(test)), *([table_of(description)] if description.task else [])]]
    missing = [f"{file}: missing; predict the test images, or check --pred" for file in files if not file.is_file()]
    if missing:
        others = sorted({path.name for path in predictions.glob(f"[!.]*{MASK_ENDING}")} - {file.name for file in files})
        missing += [f"{predictions / name}: of no test case; rename or remove it" for name in others]
        raise ValueError(f"{archive} cannot be made. {problem_list(missing)}")
    with atomic_write(archive) as temporary:
        with zipfile.ZipFile(temporary, "w") as content:
            for file in files:
                entry = zipfile.ZipInfo(file.name, LONG_AGO)
                entry.external_attr = 0o644 << 16
                content.writestr(entry, file.read_bytes())
        problems = check_submission(temporary, test, processes, description)
        if problems:
            raise ValueError(f"{archive} was not made. {problem_list(problems)}")


@script
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--pred", type=Path, required=True, help=f"folder with quiz_NNN.nii.gz and {table_of(THE_QUIZ)}")
    parser.add_argument("--test", type=Path, required=True, help="folder with the test images quiz_NNN_0000.nii.gz")
    parser.add_argument("--name", required=True, help="yours; the file is called NAME_results.zip")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder for the zip (default: here)")
    parser.add_argument("--dataset", type=Path, help="dataset.json of other data than the quiz's: labels, class task and names")
    parser.add_argument("-np", "--processes", type=whole_number(0), help="default: one per core, at most 8")
    args = parser.parse_args(arguments)
    archive = args.out / f"{plain_name(args.name, 'name', '--name')}_results.zip"
    make_submission(args.pred, args.test, archive, args.processes, description_from(args.dataset))
    print(f"{archive}: ready to hand in")


if __name__ == "__main__":
    main()
