"""Damaged DICOM slices: their bytes, and single fields of their header."""

from pathlib import Path

import numpy as np

from experiments.fuzz.damage import CONTENT, FILE_SYSTEM, Damage, rewriting


def fields(name: str, must_fail: bool = True, **values: object) -> Damage:
    """Fields of the header set, or, with None, left out."""

    def apply(path: Path, _: np.random.Generator, __: Path) -> None:
        import pydicom

        one = pydicom.dcmread(path)
        with pydicom.config.disable_value_validation():
            for key, value in values.items():
                if value is None:
                    delattr(one, key)
                else:
                    setattr(one, key, value)
            one.save_as(path)

    return Damage(name, apply, must_fail)


def syntax(name: str, uid: str) -> Damage:
    """Bytes of one transfer syntax that pass for another."""

    def apply(path: Path, _: np.random.Generator, __: Path) -> None:
        content = path.read_bytes()
        old = b"1.2.840.10008.1.2.1\0"
        path.write_bytes(content.replace(old, uid.encode().ljust(len(old), b"\0")[: len(old)], 1))

    return Damage(name, apply)


def _words_for_slope(path: Path, generator: np.random.Generator, canary: Path) -> None:
    fields("", RescaleSlope="1.234567").apply(path, generator, canary)  # pydicom writes numbers alone
    path.write_bytes(path.read_bytes().replace(b"1.234567", b"steepish"))


SLICE = [
    *CONTENT,
    *(damage for damage in FILE_SYSTEM if damage.name != "a folder in its place"),  # which is a folder with no file in it: a gap
    rewriting("cut in its voxels", lambda content, _: content[:-100]),
    rewriting("cut in its first element", lambda content, _: content[:140]),
    syntax("deflated by its syntax", "1.2.840.10008.1.2.5"),
    syntax("an unknown syntax", "1.2.840.10008.9.9.9"),
    fields("60000 rows", Rows=60000),
    fields("no rows", Rows=0),
    fields("one row more", Rows=17),
    fields("a billion frames", NumberOfFrames=10**9),
    fields("12 bits allocated", BitsAllocated=12),
    fields("no position", ImagePositionPatient=None),
    fields("a position of NaN", ImagePositionPatient=["nan", "0", "0"]),
    fields("a position of two numbers", ImagePositionPatient=[0, 0]),
    fields("a position a kilometre away", ImagePositionPatient=[0, 0, 10**7]),
    fields("directions of no length", ImageOrientationPatient=[0, 0, 0, 0, 0, 0]),
    fields("no voxel size", PixelSpacing=[0, 1]),
    fields("no slope", RescaleSlope=None),
    Damage("a slope of words", _words_for_slope),
    fields("an infinite intercept", RescaleIntercept="1e999"),
    fields("no class and modality", SOPClassUID=None, Modality=None),
    fields("no series", SeriesInstanceUID=None),
    fields("a series called like a path", must_fail=False, SeriesDescription="../../etc/passwd", PatientName="../../x"),
]
