"""Tables of any shape: read whole, or refused with file, line and reason."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunetv2.utilities.csv_files import given_twice, parse_csv, read_csv
from nnunetv2.utilities.errors import InputError

plain = st.text(st.characters(blacklist_categories=("C", "Z"), blacklist_characters='"'), min_size=1, max_size=8)


def refusal(folder, content, *arguments, **options):
    path = folder / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        read_csv(path, *arguments, **options)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("content", "reason"), [
    (b"", "is empty"), (b"\n \n", "is empty"), (b"a,b\n\xff,1\n", "not UTF-8"), (b"\xff\xfea\x00", "not UTF-8"), (b"a,b\nx,\x00\n", "control characters"),
    ("a,b\n1\n2,3\n4,5,6\n", "line 2: 1 field(s)"), ("a,b\n1\n2,3\n4,5,6\n", "line 4: 3 field(s)"), ('a,b\n1,2\n"x,3\n', "line 3"), ('a,b\n"x"y,3\n', "line 2"),
    (f"a,b\n{'x' * 5000},1\n", "field of 5000"), (f"a,b\n{'x' * 200_000},1\n", "line 2"), ("a,c\n1,2\n", "lacks the column(s) 'b'"),
    ("a,b,a\n1,2,3\n", "twice the column(s) 'a'"), ("a;b\n1;2\n", "Separate fields by commas")])
def test_a_damaged_table_is_refused(tmp_path, content, reason):
    assert reason in refusal(tmp_path, content, ["a", "b"])


def test_further_columns_are_refused_where_they_are_not_wanted(tmp_path):
    assert "must not have the column(s) 'c'" in refusal(tmp_path, "a,b,c\n1,2,3\n", ["a", "b"], only_these=True)


def test_byte_order_mark_blanks_empty_lines_and_windows_line_ends_pass(tmp_path):
    (tmp_path / "table.csv").write_bytes(b"\xef\xbb\xbfa, b\r\n 1 ,2\r\n\r\n3,4")
    table = read_csv(tmp_path / "table.csv", ["b", "a"], only_these=True)
    assert table.rows == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}] and table.lines == [2, 4]


def test_lines_that_end_early_can_be_filled():
    assert parse_csv("a,b\n1\n", "text", pad=True).rows == [{"a": "1", "b": ""}]


def test_names_given_twice_come_with_their_lines():
    assert given_twice(["x", "y", "x", ""], [2, 3, 4, 7]) == [
        "x is there 2 times, in lines 2, 4; keep one of them", "line 7: the name is missing; give it, or delete the line"]


@pytest.mark.slow
@given(rows=st.lists(st.tuples(plain, plain), max_size=5))
def test_what_was_written_is_read(rows):
    text = io.StringIO()
    csv.writer(text).writerows([("a", "b"), *rows])
    assert [(row["a"], row["b"]) for row in parse_csv(text.getvalue(), "text", ["a", "b"]).rows] == rows


@pytest.mark.slow
@given(text=st.text(max_size=60))
def test_any_text_is_a_table_or_an_input_error(text):
    try:
        table = parse_csv(text, "text")
    except InputError:
        return
    assert all(list(row) == table.columns for row in table.rows)
