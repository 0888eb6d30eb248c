"""No cell of a table is run by the spreadsheet that opens it."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunetv2.utilities.csv_cells import guarded, unguarded


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-a", "@SUM(A1)", "\tx", "\rx", "=HYPERLINK(\"http://x\")", "-1+2", "'=1", "-"])
def test_formulas_become_text(text):
    assert guarded(text) == f"'{text}"


@pytest.mark.parametrize("value", ["quiz_1", "", "a=b", "-1", "+2.5e-3", "-.5", "0.5", "-inf", "nan", "'quoted'", -1, 0.5, None, True])
def test_numbers_and_other_texts_stay(value):
    assert guarded(value) is value


@pytest.mark.slow
@given(st.text())
def test_what_is_read_is_what_was_given(text):
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerow([guarded(text), "end"])
    buffer.seek(0)
    assert unguarded(next(csv.reader(buffer))[0]) == text
