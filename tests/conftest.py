"""What every test leaves as it found it."""

import os

import pytest


@pytest.fixture(autouse=True)
def _environment_as_before():
    """Main functions called here set nnU-Net's folders for their process; the next test must not work in them."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
