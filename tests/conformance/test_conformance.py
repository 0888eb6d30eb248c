"""The reduced comparison with upstream nnU-Net as tests, one a check: every row must pass.

    NNUNET_UPSTREAM_PYTHON=.venv-upstream/bin/python pytest -m conformance tests/conformance
"""

import importlib
import json

import pytest

from tests.conformance.bench import Row, equal, within
from tests.conformance.run import ROOMS, hardware, kept_rows, run_check

CHECKS = [(room, check) for room in ROOMS for check in importlib.import_module(f"tests.conformance.check_{room}").CHECKS]


@pytest.mark.conformance
@pytest.mark.parametrize(("room", "check"), CHECKS, ids=[f"{room}-{check.__name__}" for room, check in CHECKS])
def test_agrees_with_upstream(room, check, bench):
    failed = [row for row in bench.once(f"rows of {check.__name__}", lambda: run_check(check, bench)) if not row.passed]
    assert not failed, "\n".join(f"{row.what}: {row.difference} (bound {row.bound}); ours {row.ours}, upstream {row.upstream}" for row in failed)


def test_equal_names_the_field_that_differs():
    row = equal("plans", {"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}})
    assert not row.passed and ".a.b[1]" in row.difference


def test_within_fails_on_nan():
    assert not within("x", float("nan"), 1.0, 1e-3).passed


def test_rows_of_other_rooms_are_kept_from_a_like_run(tmp_path):
    out = tmp_path / "conformance.json"
    rows = [{"room": room, "what": room} for room in ("loss", "network")]
    out.write_text(json.dumps({"reduced": False, "hardware": hardware(), "rows": rows}))
    assert kept_rows(out, ["loss"], reduced=False) == rows[1:]
    assert kept_rows(out, ["loss"], reduced=True) == kept_rows(out, list(ROOMS), False) == kept_rows(tmp_path / "none", ["loss"], False) == []


def test_exception_in_a_check_becomes_a_failed_row():
    def check(bench):
        yield Row("first", "", "", "0", "", True)
        raise ValueError("no such thing")

    first, second = run_check(check, None)
    assert first.passed and not second.passed and "no such thing" in second.difference
