"""Predicting a folder of DICOM series: each becomes an image beside the output, and each mask, if asked for, a DICOM SEG."""

import os
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from nnunetv2.imageio.dicom_conversion import TABLE, Conversion, Converted, convert_folder
from nnunetv2.imageio.dicom_files import holds_dicom, shown
from nnunetv2.imageio.dicom_seg import load_highdicom, write_segmentation
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.imageio.whole_file import damage_of_written
from nnunetv2.inference.output_folders import refuse_unwritable
from nnunetv2.utilities.csv_files import read_csv, write_csv
from nnunetv2.utilities.errors import EXPECTED_ERRORS, InputError, in_one_message, list_some
from nnunetv2.utilities.files import is_there
from nnunetv2.utilities.folder_lock import folder_lock
from nnunetv2.utilities.image_listing import scan_images

COLUMNS = ("case", "mask", "dicom_seg", "series_uid", "study_uid", "modality", "description", "folder", "image")
SEG_ENDING = "_seg.dcm"


@dataclass
class DicomCases:
    """What a folder of DICOM series gives to predict, and what is done once its masks are there."""

    conversion: Conversion
    output: Path
    labels: dict
    ending: str
    seg: bool
    model: str

    @property
    def images(self) -> list[list[str]]:
        return [[str(item.image)] for item in self.conversion.converted]

    @property
    def outputs(self) -> list[Path]:
        return [self.output / item.case for item in self.conversion.converted]

    def finish(self, failed: Set[str] = frozenset(), part_id: int = 0, num_parts: int = 1) -> list[str]:
        """Write the SEGs of this part and series.csv; a message, if some series could not be read or have no SEG.

        failed: cases without a new mask.
        """
        problems = list(self.conversion.problems)
        for item in self.conversion.converted[part_id::num_parts] if self.seg else ():
            if item.case in failed:
                continue
            try:
                self._write_seg(item)
            except EXPECTED_ERRORS as error:
                problems.append(in_one_message(error))
        self._write_table()
        listed = "\n".join(problems)
        return [f"{len(problems)} DICOM series or file(s) were not segmented, or have no SEG; the others are done.\n{listed}"] if problems else []

    def _mask(self, item: Converted) -> Path:
        return self.output / f"{item.case}{self.ending}"

    def _seg_file(self, item: Converted) -> Path:
        return self.output / f"{item.case}{SEG_ENDING}"

    def _write_seg(self, item: Converted) -> None:
        """Anew where the mask is newer."""
        mask, target = self._mask(item), self._seg_file(item)
        if not (target.is_file() and target.stat().st_mtime_ns > mask.stat().st_mtime_ns):
            write_segmentation(SimpleITKIO().read_seg(mask)[0][0], item.stack, self.labels, target, self.model)

    def _write_table(self) -> None:
        """A row for each mask that is there; those of other series in the folder stay."""
        path = self.output / TABLE
        with folder_lock(self.output, "series", "series.csv is written", wait=True):  # the other parts of this prediction write it, too
            self._write_rows(path)

    def _write_rows(self, path: Path) -> None:
        rows = {row["series_uid"]: row for row in read_csv(path, COLUMNS, only_these=True).rows} if is_there(path) else {}
        for item in self.conversion.converted:
            mask, series = self._mask(item), item.series
            if mask.is_file() and damage_of_written(mask) is None:
                rows[series.uid] = {
                    "case": item.case, "mask": mask.name, "dicom_seg": self._seg_file(item).name if self._seg_file(item).is_file() else "",
                    "series_uid": series.uid, "study_uid": series.study_uid, "modality": series.modality, "description": series.description,
                    "folder": shown(series.files[0].parent.absolute()), "image": shown(item.image.absolute())}
        write_csv(path, COLUMNS, sorted(rows.values(), key=lambda row: row["case"]))


def dicom_cases(folder: str | os.PathLike, output: str | os.PathLike, dataset_json: dict, model_folder: str | os.PathLike, seg: bool = False,
                images_folder: str | os.PathLike | None = None) -> DicomCases | None:
    """Convert the series of `folder` into `images_folder` (default OUTPUT_images beside the output); None where it holds images, or no DICOM.

    Raises:
        InputError: no series can be used; the model takes several channels, or files that a series cannot become; `seg` without DICOM.
    """
    ending, channels = dataset_json["file_ending"], list(dataset_json["channel_names"].values())
    if not os.path.isdir(folder):
        return None  # which the listing of images says
    found = scan_images(folder, ending, "ignore", predictions=False)  # masks of a former run into this folder are no images
    if found.files or found.problems or not holds_dicom(folder):
        if seg:
            raise InputError(f"--dicom_seg needs DICOM series to refer to, and {folder} holds {'images' if found.files else 'none'}. Leave it out, or give their folder.")
        return None
    if seg:
        load_highdicom()
    if len(channels) != 1:
        raise InputError(f"{folder} holds DICOM series, and the model takes {len(channels)} channels ({', '.join(map(str, channels))}). Convert the series with "
                         f"data_prep/from_dicom.py and name them CASE_0000{ending}, CASE_0001{ending} by channel.")
    if ending not in SimpleITKIO.supported_file_endings:
        raise InputError(f"{folder} holds DICOM series, and the model takes {ending} files, which a series cannot become. Give such files.")
    output = Path(os.path.abspath(output))  # `.` has no name of its own
    if images_folder is None and not output.name:
        raise InputError(f"{output} has no folder beside it for the images that are made of the series: name an output folder, or one for the images (--dicom_images).")
    target = output.with_name(f"{output.name}_images") if images_folder is None else Path(images_folder)
    refuse_unwritable(output)
    modality = "CT" if str(channels[0]).upper() == "CT" else None
    conversion = convert_folder(folder, target, modality=modality, ending=ending, wait=True)
    if conversion.skipped:
        print(f"{folder}: skipped\n{conversion.skipped}")
    if not conversion.converted:
        reasons = list_some(conversion.problems) or f"  it has no {modality or 'scanned'} series of 5 or more slices"
        raise InputError(f"{folder}: no DICOM series can be predicted:\n{reasons}")
    print(f"{len(conversion.converted)} DICOM series are images in {target}.")
    return DicomCases(conversion, output, dataset_json["labels"], ending, seg, Path(model_folder).resolve().name)
