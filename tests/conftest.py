"""What holds for every test: which ones run side by side, and what each leaves as it found it."""

import os

import pytest

LONGEST = ("pipeline", "conformance", "experiments", "fuzz", "faults")  # rooms to start with, so that no worker ends long after the others


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the marks in this hook, too
def pytest_collection_modifyitems(items):
    """With pytest-xdist a file runs in one worker, whose fixtures its tests share; conformance does as a whole, for it starts upstream once."""
    for item in items:
        group = "conformance" if _room(item) == "conformance" else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: LONGEST.index(_room(item)) if _room(item) in LONGEST else len(LONGEST))


def _room(item):
    """Folder below tests/."""
    return item.path.relative_to(os.path.dirname(__file__)).parts[0]


@pytest.fixture(autouse=True)
def _environment_as_before():
    """Main functions called here set nnU-Net's folders for their process; the next test must not work in them."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
