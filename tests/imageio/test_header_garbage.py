"""Any bytes in any header: an image is read with finite values on a finite grid, or refused by name; no hang, no memory, no other error."""

import gzip
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnunetv2.imageio.checked_file import read_image
from nnunetv2.imageio.nifti_file import MAX_SPACING, MIN_SPACING
from nnunetv2.utilities.errors import InputError
from tests.imageio.files_by_bytes import FIELDS, VOXELS, gipl, mha, nifti, nrrd, save

QUICK = settings(max_examples=40, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
SPECIAL = [float("nan"), float("inf"), -float("inf"), 0.0, -1.0, 1e30, -1e30, 1e-30, 3.4e38, 1e-45]
FLOAT = st.one_of(st.sampled_from(SPECIAL), st.floats(width=32))
SHORT = st.one_of(st.sampled_from([0, -1, 1, 2, 3, 4, 5, 7, 8, 32767, -32768]), st.integers(-32768, 32767))


@st.composite
def headers(draw):
    """A sound NIfTI with one to three fields of garbage of the field's own type."""
    content = bytearray(nifti(order=draw(st.sampled_from("<>"))))
    order = "<" if content[0] else ">"
    for name in draw(st.lists(st.sampled_from(sorted(set(FIELDS) - {"sizeof_hdr", "magic"})), min_size=1, max_size=3, unique=True)):
        form, at = FIELDS[name]
        kind, count = form[-1], int(form[:-1] or 1)
        value = {"f": FLOAT, "h": SHORT, "B": st.integers(0, 255)}[kind]
        i = draw(st.integers(0, count - 1))
        struct.pack_into(order + kind, content, at + i * struct.calcsize(kind), draw(value))
    return bytes(content)


def read_or_refuse(path):
    tracemalloc.start()
    try:
        voxels, geometry = read_image(path)
    except InputError as error:
        assert str(path) in str(error)
    else:
        assert voxels.ndim == 4 and np.isfinite(voxels).all()
        assert all(MIN_SPACING <= value <= MAX_SPACING for value in geometry["spacing"])
        assert np.isfinite([*geometry["origin"], *geometry["direction"]]).all()
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 8 * 2**20


@pytest.mark.slow
@QUICK
@given(headers(), st.sampled_from(["a.nii", "a.nii.gz"]))
def test_garbage_in_fields_of_a_nifti_header(tmp_path, content, name):
    read_or_refuse(save(content, tmp_path / name))


@pytest.mark.slow
@pytest.mark.parametrize(("content", "name"), [(nifti(), "a.nii"), (gzip.compress(nifti()), "b.nii.gz"), (nrrd(encoding="gzip"), "a.nrrd"), (nrrd(), "b.nrrd"),
                                               (mha(), "a.mha"), (gipl(), "a.gipl")], ids=lambda value: value if isinstance(value, str) else "")
@QUICK
@given(data=st.data())
def test_random_bytes_anywhere(tmp_path, content, name, data):
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / name).write_bytes(changed)
    read_or_refuse(tmp_path / name)


WORDS = st.one_of(st.sampled_from(["nan", "inf", "-1", "0", "1e30", "99999999999", "()", "none", "LOCAL", "\u00e9", "1 1 1", "True"]), st.text(max_size=12))


@pytest.mark.slow
@QUICK
@given(key=st.sampled_from(["sizes", "dimension", "type", "encoding", "endian", "space_directions", "space_origin", "kinds", "space"]), value=WORDS)
def test_garbage_in_fields_of_a_nrrd_header(tmp_path, key, value):
    content = nrrd(**{key: value}) if key != "encoding" else nrrd().replace(b"encoding: raw", b"encoding: " + value.encode("utf-8", "replace"))
    read_or_refuse(save(content, tmp_path / "a.nrrd"))


@pytest.mark.slow
@QUICK
@given(key=st.sampled_from(["NDims", "DimSize", "ElementType", "ElementSpacing", "Offset", "TransformMatrix", "CompressedData", "BinaryData", "ElementDataFile"]), value=WORDS)
def test_garbage_in_fields_of_a_metaimage_header(tmp_path, key, value):
    read_or_refuse(save(mha(**{key: value}), tmp_path / "a.mha"))


@pytest.mark.slow
@given(voxels=st.lists(st.integers(-32768, 32767), min_size=60, max_size=60), order=st.sampled_from("<>"), gz=st.booleans())
@settings(max_examples=25, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_voxels_come_back_as_they_were_written(tmp_path, voxels, order, gz):
    array = np.array(voxels, np.int16).reshape(VOXELS.shape)
    assert (read_image(save(nifti(array, order), tmp_path / f"a.nii{'.gz' * gz}"))[0][0] == array).all()
