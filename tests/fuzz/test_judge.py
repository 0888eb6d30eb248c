"""What the fuzz campaign calls met well, and what not."""

import pytest

from experiments.campaigns.forked import Outcome
from experiments.fuzz.judge import Case, judge, names

GOOD = "error: /w/images/a_0000.nii.gz: 8 bytes are missing at its end. Copy it anew.\n"


@pytest.fixture
def case(tmp_path):
    return Case(["/w/images/a_0000.nii.gz"], must_fail=True, writes=("out",), canary=tmp_path / "canary")


def outcome(stderr=GOOD, status=1, reason=""):
    return Outcome(status, reason, "", stderr, 0.1)


def test_one_message_with_file_and_remedy_is_good(case):
    assert judge(case, outcome(), {"images/a": "1"}, {"images/a": "1"}) == []


def test_a_traceback_is_not(case):
    assert "traceback: KeyError: 'x'" in judge(case, outcome("Traceback (most recent call last):\n  File\nKeyError: 'x'\n"), {}, {})


def test_ending_well_on_damage_is_not(case):
    assert judge(case, outcome("", 0), {}, {}) == ["is taken as if nothing were wrong"]


def test_ending_well_on_an_odd_input_is_good_with_its_result(case):
    case.must_fail, case.results = False, ["out/a.nii.gz"]
    assert judge(case, outcome("", 0), {}, {"out/a.nii.gz": "1"}) == []
    assert judge(case, outcome("", 0), {}, {}) == ["ends well without out/a.nii.gz"]


def test_every_damaged_file_has_to_be_named(case):
    case.named.append("/w/images/b_0000.nii.gz")
    assert judge(case, outcome(), {}, {}) == ["does not name /w/images/b_0000.nii.gz"]


def test_two_messages_are_one_too_many(case):
    assert judge(case, outcome(GOOD + GOOD), {}, {}) == ["2 error messages"]


def test_a_message_without_a_remedy_is_not_enough(case):
    assert judge(case, outcome("error: a_0000.nii.gz: bad magic\n"), {}, {}) == ["no word of a remedy or of what is expected"]


def test_argparse_may_put_the_program_before_the_message(case):
    case.named = ["7"]
    assert judge(case, outcome("usage: x\nx: error: argument -f: invalid choice: '7'\n", 2), {}, {}) == []


@pytest.mark.parametrize(("reason", "status", "expected"), [("time", None, "hangs"), ("", -6, "dies of signal 6")])
def test_hangs_and_crashes_are_told(case, reason, status, expected):
    assert judge(case, outcome("", status, reason), {}, {})[0] == expected


def test_what_is_lost_changed_written_elsewhere_or_left_over_is_told(case):
    before = {"kept": "1", "gone": "1", "spoilt": "1", "out/old": "1"}
    after = {"kept": "1", "spoilt": "2", "elsewhere": "1", "out/.a.0123456789abcdef0123456789abcdef.nii.gz": "1"}
    assert judge(case, outcome(), before, after) == [
        "lost: gone",
        "changed: spoilt",
        "written elsewhere: elsewhere",
        "left over: out/.a.0123456789abcdef0123456789abcdef.nii.gz",
    ]


def test_code_that_ran_is_told(case):
    case.canary.touch()
    assert "runs or writes what the input asks for" in judge(case, outcome(), {}, {})


@pytest.mark.parametrize("name", ["a\nb", "tab\tinside", "膵臓", "quote'd"])
def test_a_name_counts_in_any_spelling_that_keeps_it_readable(name):
    assert names(f"error: case {name!r} cannot be used", name)


def test_the_name_of_a_case_stands_for_its_file():
    assert names("error: quiz_0_001: damaged", "/w/quiz_0_001_0000.nii.gz") and not names("error: quiz_0_002", "/w/quiz_0_001.nii.gz")


def test_relative_folders_above_what_is_written_are_no_stray_output(case):
    case.writes = ("nnUNet_raw/Dataset777",)
    assert judge(case, outcome(), {}, {"nnUNet_raw/": "folder", "nnUNet_raw/Dataset777/x": "1"}) == []
